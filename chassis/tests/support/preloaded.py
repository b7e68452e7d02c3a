"""Starts Python programs in a few milliseconds: it has imported their libraries, and forks for each.

Tests that run a service as a process would otherwise spend most of their time in imports. The program itself is not
imported here, and begins as with `python -W error -m`. `forked.py` starts this process and asks it for others.
"""

import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import warnings
from contextlib import suppress
from typing import Any, NamedTuple

MAX_REQUEST_BYTES = 200_000
PYTHON_VARIABLES = ("PYTHONPATH",)  # those that this process treats as Python does at its start


class Request(NamedTuple):
    """A program to start."""

    module: str
    arguments: list[str]
    folder: str
    environment: dict[str, str]
    warnings: str
    new_session: bool
    files: list[int]
    """Standard input, output and error."""


def serve(link: socket.socket) -> Request | None:
    """Fork until the other side closes `link`. Returns the request in the child, and None in this process."""
    links: dict[int, socket.socket] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(link, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.data is not None:
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    tell_end(key.data, links.pop(key.data))
                    continue
                message, files, _, _ = socket.recv_fds(link, MAX_REQUEST_BYTES, 4)
                if not message:
                    for child in links:
                        os.kill(child, signal.SIGKILL)
                    return None
                *files, status = files
                child = os.fork()
                if child == 0:
                    for other in (*links.values(), link):
                        other.close()
                    os.close(status)
                    return Request(**json.loads(message), files=files)
                for file in files:
                    os.close(file)
                links[child] = socket.socket(fileno=status)
                links[child].send(b"%d" % child)
                selector.register(os.pidfd_open(child), selectors.EVENT_READ, child)


def tell_end(child: int, link: socket.socket) -> None:
    """Send the exit status of a child process, as `subprocess` gives it."""
    _, status = os.waitpid(child, 0)
    with link:
        link.send(b"%d" % os.waitstatus_to_exitcode(status))


def become(request: Request) -> None:
    """Make this process as it would be at the start of Python."""
    if request.new_session:
        os.setsid()
    for number, file in enumerate(request.files):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request.folder)
    os.environ.clear()
    os.environ.update(request.environment)
    warnings.resetwarnings()
    warnings.simplefilter(request.warnings)  # type: ignore[arg-type]
    sys.warnoptions[:] = [request.warnings]
    folders = [folder for folder in request.environment.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:1] = [request.folder, *folders]
    sys.argv = [request.module, *request.arguments]


def main(descriptor: int, modules: list[str]) -> Request | None:
    """Import the libraries, and serve."""
    for module in modules:
        with suppress(ImportError):  # a library that is not installed
            importlib.import_module(module)
    gc.collect()
    gc.freeze()  # so that the children share its memory
    with socket.socket(fileno=descriptor) as link:
        return serve(link)


if __name__ == "__main__":
    request: Any = main(int(sys.argv[1]), sys.argv[2:])
    if request is not None:
        become(request)
        runpy.run_module(request.module, run_name="__main__", alter_sys=True)
