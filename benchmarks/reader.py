"""Reads a server's standard output to its end, as a container's runtime would, and counts; a process of its own.

    python reader.py <marker> [<file to keep the lines in>]

Counts newlines and, of them, the lines that hold `marker`, over reads of up to a megabyte: a few
microseconds for a thousand lines.
"""

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

READ_BYTES = 1 << 20


def main() -> None:
    marker = sys.argv[1].encode()
    lines = marked = size = 0
    rest = b""
    with ExitStack() as stack:
        keep = stack.enter_context(Path(sys.argv[2]).open("wb")) if len(sys.argv) > 2 else None
        while data := os.read(0, READ_BYTES):
            size += len(data)
            lines += data.count(b"\n")
            # A marker may lie across two reads: what follows the last newline waits for the next.
            whole, newline, tail = data.rpartition(b"\n")
            if newline:
                marked += (rest + whole).count(marker)
                rest = tail
            else:
                rest += data
            if keep is not None:
                keep.write(data)
    print(json.dumps({"lines": lines, "marked": marked, "bytes": size}))


if __name__ == "__main__":
    main()
