"""`/logs`: the last log lines."""

import re
from typing import Annotated, Any

import orjson
from pydantic import Field

from ..api.handler import Handler
from ..telemetry.log_tail import MAX_LINES
from ..telemetry.log_writer import LineWriter

MAX_LINE_BYTES = 16_384
COLOURS = re.compile(r"\x1b\[[0-9;]*m")


class LogLines(Handler):
    """The last lines of this process as they were written, with numbers that grow. Their secrets are redacted."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    async def get(
        self,
        after: Annotated[int, Field(ge=0)] | None = None,
        limit: Annotated[int, Field(ge=1, le=MAX_LINES)] = 200,
    ) -> list[dict[str, Any]]:
        """The lines after a number, or without one the last lines; the oldest first.

        Missing numbers belong to lines that are no longer kept.
        """
        self._writer.flush()
        lines = self._writer.tail.lines(after or 0)
        lines = lines[-limit:] if after is None else lines[:limit]
        return [{"number": number, "line": readable(line)} for number, line in lines]


def readable(line: bytes) -> Any:
    """The object in a line of JSON, or the text of another line; lines that are too long are cut."""
    if line.startswith(b"{") and len(line) <= MAX_LINE_BYTES:
        try:
            return orjson.loads(line)
        except orjson.JSONDecodeError:
            pass
    return COLOURS.sub("", line[:MAX_LINE_BYTES].decode("utf-8", "replace"))
