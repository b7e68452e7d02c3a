"""A service that consumes events, as a process: `python -m tests.support.nats_program`, with `APP_NATS_URL`."""

import asyncio

import structlog

from chassis import App, ChassisSettings, run
from chassis.nats import Consumer, NatsSettings, add_events

log = structlog.get_logger()


class Settings(ChassisSettings, NatsSettings):
    """The settings of this service."""


class Slow(Consumer):
    """Takes some time for each event. An event with the content `hang` never ends."""

    async def handle(self, event: bytes) -> None:
        log.info("begun", content=event.decode())
        if event == b"hang":
            await asyncio.Event().wait()
        await asyncio.sleep(0.3)


def create_app(settings: Settings) -> App:
    """Create the service."""
    app = App(settings)
    events = add_events(app, settings)
    events.ensure_stream("orders", ["orders.>"])
    events.add_consumer("orders.created", Slow(), stream="orders", durable="slow", max_in_flight=2)
    return app


if __name__ == "__main__":
    run(f"{__package__}.nats_program:create_app")
