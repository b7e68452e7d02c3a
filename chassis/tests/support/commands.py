"""A service with commands that the tests run as a process: `python -m tests.support.commands`."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

import structlog
from pydantic import Field, SecretStr

from chassis import App, ChassisSettings, Handler, RateLimit, run

log = structlog.get_logger()


class Settings(ChassisSettings):
    """The settings of the service."""

    greeting: str = Field("Hello", description="The first word.")
    api_key: SecretStr | None = Field(None, description="Key of the supplier.")


class Ledger:
    """A resource that notes whether it is open."""

    is_open = False


class Greetings(Handler):
    """Greets."""

    async def get(self, name: str) -> str:
        """Greet somebody."""
        return name


def create_app(settings: Settings) -> App:
    """The application."""
    log.info("creating")
    app = App(settings, name="test-service")
    ledger = Ledger()

    @asynccontextmanager
    async def opened() -> AsyncIterator[None]:
        if os.environ.get("LEDGER") == "refused":
            raise ConnectionRefusedError("no ledger at 192.0.2.1")
        if os.environ.get("LEDGER") == "hanging":
            await asyncio.Event().wait()
        log.info("ledger opened")
        ledger.is_open = True
        yield
        ledger.is_open = False
        log.info("ledger closed")

    async def probe() -> None:
        if os.environ.get("LEDGER") == "unready":
            raise RuntimeError("the ledger is locked")

    app.add_resource(opened())
    app.provide(Ledger, ledger)
    app.add_check("ledger", probe)
    app.add_check("cache", probe, required=False)
    app.add_route("/greetings/{name}", Greetings(), rate_limit=RateLimit(10, 60))
    app.add_background_task("background", background)
    for command in (greet, fail, reject, leave, wait, stubborn, spin, work):
        app.add_command(command.__name__, command)
    return app


async def background() -> None:
    """Must not run beside commands."""
    log.info("background")


async def greet(
    settings: Settings,
    ledger: Ledger,
    name: Annotated[str, Field(max_length=5, description="Who is greeted.")],
    *,
    times: Annotated[int, Field(ge=1, description="How often; 100 % of them.")] = 1,
    mood: Literal["glad", "sad"] = "glad",
    loud: bool = False,
) -> None:
    """Greet somebody.

    As often as you like.
    """
    log.info("greeting", is_open=ledger.is_open)
    for _ in range(times):
        text = f"{settings.greeting}, {name}! I am {mood}."
        sys.stdout.write(f"{text.upper() if loud else text}\n")


async def fail() -> None:
    """Raise."""
    raise LookupError("there is no such order")


async def reject() -> int:
    """Return a status."""
    return 3


def leave() -> None:
    """Exit with a text, in a thread."""
    sys.exit("there is nothing to do")


async def wait() -> None:
    """Wait until a signal comes, and clean up."""
    log.info("waiting")
    try:
        await asyncio.Event().wait()
    finally:
        await asyncio.sleep(0.01)
        log.info("cleaned up")


async def stubborn() -> None:
    """Ignore the first signal."""
    log.info("waiting")
    while True:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            log.info("ignored")


async def spin() -> None:
    """Block the event loop."""
    log.info("waiting")
    await asyncio.sleep(0.01)  # writes the line
    while True:
        time.sleep(0.01)  # noqa: ASYNC251 - on purpose


def work(app: App) -> None:
    """Work in a thread until a signal comes."""
    log.info("waiting")
    while not app.draining.is_set():
        time.sleep(0.01)
    log.info("cleaned up")


if __name__ == "__main__":
    run("tests.support.commands:create_app")
