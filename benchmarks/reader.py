"""Reads a server's standard output to its end, as a container's runtime would, and counts; a process of its own.

    python reader.py <marker> <seconds to wait before each read> [<file to keep the lines in>]

Counts newlines and, of them, the lines that hold `marker`, over reads of up to a megabyte into one
buffer, since it shares a core with the load: a new megabyte for each read takes four times as long,
and what the load loses by it, the server seems to take for a line. With 0 seconds it reads as soon
as there is something. Who waits gets a pipe of a megabyte, so that the server needn't, and reads it
in small bites, between which the others on its core have their turn.
"""

import fcntl
import json
import os
import sys
import time
from contextlib import ExitStack
from pathlib import Path

READ_BYTES = 1 << 20
BITE_BYTES = 1 << 12
F_SETPIPE_SZ = 1031  # Linux; named in the standard library's fcntl only where it was built so


def main() -> None:
    marker = sys.argv[1].encode()
    pause = float(sys.argv[2])
    bite = BITE_BYTES if pause else READ_BYTES
    if pause:
        fcntl.fcntl(0, F_SETPIPE_SZ, READ_BYTES)
    buffer = bytearray(2 * READ_BYTES)
    view = memoryview(buffer)
    lines = marked = size = begun = 0  # `begun` bytes of a line whose end is still to come
    with ExitStack() as stack:
        keep = stack.enter_context(Path(sys.argv[3]).open("wb")) if len(sys.argv) > 3 else None
        while count := os.readv(0, [view[begun : begun + bite]]):
            end = begun + count
            size += count
            lines += buffer.count(b"\n", begun, end)
            if keep is not None:
                keep.write(view[begun:end])
            # A marker may lie across two reads: what follows the last newline waits for the next.
            whole = buffer.rfind(b"\n", begun, end) + 1
            if whole:
                marked += buffer.count(marker, 0, whole)
                buffer[: end - whole] = view[whole:end]
            begun = end - whole
            if begun > READ_BYTES:
                sys.exit("a line longer than a megabyte")
            if not pause:
                continue
            if count < bite:
                time.sleep(pause)
            else:
                os.sched_yield()
    print(json.dumps({"lines": lines, "marked": marked, "bytes": size}))


if __name__ == "__main__":
    main()
