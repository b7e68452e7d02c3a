"""The output of commands: text, tables and JSON, on standard output."""

import os
import sys
from collections.abc import Sequence
from typing import Any

import orjson

BROKEN_PIPE = 128 + 13  # as a shell reports a program that SIGPIPE has ended
MARGIN = "  "


def write(text: str) -> int:
    """Print text. Returns the exit status: 141 if the reader of a pipe, such as `head`, has closed it."""
    try:
        sys.stdout.buffer.write(text.encode("utf-8", "backslashreplace"))
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter writes the rest at its end, and would report the error again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return 0


def json_text(document: Any) -> str:
    """A JSON document with indentation, and a newline."""
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


def table_text(rows: Sequence[Sequence[str]]) -> str:
    """Rows as lines, in columns."""
    cells = [[" ".join(cell.split()) for cell in row] for row in rows]
    widths = [max(map(len, column), default=0) for column in zip(*cells, strict=True)]
    lines = (MARGIN.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "".join(f"{line.rstrip()}\n" for line in lines)
