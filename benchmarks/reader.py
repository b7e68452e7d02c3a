"""Reads a server's log to its end and counts access lines: `python benchmarks/reader.py <pause in seconds>`.

A container runtime reads a service's output from a pipe, and so does this process. With a pause it reads only so
often, from a larger pipe, for measurements that share its core.
"""

import fcntl
import os
import sys
import time

# In a line of the service and of structlog with orjson alike, and in no value, where quotes are escaped.
ACCESS_MARKER = b'"event":"request"'
PIPE_BYTES = 1 << 20
F_SETPIPE_SZ = 1031  # Linux; Python names it only if it was built with headers that do


def main() -> None:
    pause = float(sys.argv[1])
    if pause:
        fcntl.fcntl(0, F_SETPIPE_SZ, PIPE_BYTES)
    lines, rest = 0, b""
    while chunk := os.read(0, PIPE_BYTES if pause else 1 << 16):
        seen = rest + chunk  # a marker may lie across two reads
        lines += seen.count(ACCESS_MARKER)
        rest = seen[1 - len(ACCESS_MARKER) :]
        if pause:
            time.sleep(pause)
    print(lines)


if __name__ == "__main__":
    main()
