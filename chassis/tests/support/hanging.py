"""A service whose end hangs in the way that `HANGS` names: `python -m tests.support.hanging`."""

import asyncio
import atexit
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from chassis import App, ChassisSettings, Handler, Tasks, run, server

log = structlog.get_logger()


async def stubborn() -> None:
    """Ignore the cancellation, for ever."""
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


def ignore_signals() -> None:
    """Be a child process that does not end."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    log.info("child", child=os.getpid())
    time.sleep(3600)


def work_on() -> None:
    """Be a child process that works for longer than its parent."""
    time.sleep(3600)


def in_child(daemon: bool) -> None:
    """Start a child process."""
    work = ignore_signals if daemon else work_on
    multiprocessing.get_context("fork").Process(target=work, daemon=daemon, name="stubborn").start()


class Hang(Handler):
    """Begins something that hangs, and responds."""

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks

    async def post(self, what: str) -> None:
        begin: dict[str, Callable[[], object]] = {
            "task": lambda: self._tasks.start(stubborn(), name="stubborn"),
            "loose task": lambda: asyncio.create_task(stubborn(), name="loose"),
            "executor": lambda: asyncio.get_running_loop().run_in_executor(None, time.sleep, 3600),
            "thread": lambda: threading.Thread(target=time.sleep, args=(3600,), name="owner's").start(),
            "daemon child": lambda: in_child(daemon=True),
            "child": lambda: in_child(daemon=False),
            "atexit": lambda: atexit.register(time.sleep, 3600),
            "event loop": lambda: asyncio.get_running_loop().call_later(0.5, time.sleep, 3600),
            "nothing": lambda: None,
            "resource": lambda: None,
            "stubborn resource": lambda: None,
            "blocking resource": lambda: None,
            "native code": lambda: None,
        }
        self._kept = begin[what]()


class Endless(Handler):
    """Do not respond."""

    async def get(self) -> None:
        log.info("entered")
        await stubborn()

    def put(self) -> None:
        log.info("entered")
        time.sleep(3600)


@asynccontextmanager
async def resource() -> AsyncIterator[None]:
    """Hangs at its end, if an environment variable asks for it."""
    yield
    log.info("leaving")
    match os.environ.get("HANGS"):
        case "resource":
            await asyncio.Event().wait()
        case "stubborn resource":
            await stubborn()
        case "blocking resource":
            time.sleep(3600)  # noqa: ASYNC251 - what it is for
        case "native code":
            sum(range(10**15))  # holds the interpreter, and looks at no signal


@asynccontextmanager
async def outer_resource() -> AsyncIterator[None]:
    """Ends after the other one."""
    yield
    log.info("left")


def create_app(settings: ChassisSettings) -> App:
    """The application."""
    app = App(settings, name="hanging")
    app.add_route("/hang", Hang(app.tasks))
    app.add_route("/endless", Endless())
    app.add_resource(outer_resource())
    app.add_resource(resource())
    return app


if __name__ == "__main__":
    # Shorter, so that the tests are.
    server.END_SECONDS = float(os.environ.get("END_SECONDS", "7"))
    server.EXIT_SECONDS = 0.5
    run(f"{__spec__.name}:create_app")
