"""`add_events`, and `Events`: a NATS server as a resource of an `App`."""

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from time import monotonic
from types import TracebackType
from typing import Any, Self

import structlog
from nats import errors as nats_errors
from nats.aio.client import Client
from pydantic import BaseModel
from structlog.typing import FilteringBoundLogger

from ..app import App
from ..configuration.changes import counterpart
from .connection import Connection
from .consumer import Consumer, ConsumerError, ConsumerMethod
from .errors import EventsUnavailableError, unavailable_problem
from .inbox import Inbox
from .message_telemetry import MessageTelemetry
from .processing import Processing
from .publisher import Publisher
from .runner import Runner
from .settings import NatsSettings
from .streams import DEAD, Durable, Stream

log: FilteringBoundLogger = structlog.get_logger()

RESTORE_SECONDS = 1.0  # between two attempts to create the streams that the server has lost
MAX_RESTORE_SECONDS = 30.0
LOG_SECONDS = 10.0  # between two lines about such attempts that fail
BACKOFF_SECONDS = (1.0, 5.0, 15.0, 60.0, 300.0)
NAME = re.compile(r"[A-Za-z0-9_-]+")
SUBJECT = re.compile(r"[^\s.]+(\.[^\s.]+)*")


def add_events(app: App, settings: NatsSettings, *, required: bool = True) -> "Events":
    """Add a NATS server to an application, and return it for streams and consumers.

    It is connected at the start, has a readiness check, and its errors are mapped to problems. Handlers can have a
    parameter of the type `Publisher`. With `required=False`, the service starts and is ready without the server, and
    connects as soon as it can.
    """
    events = app.add_resource(Events(app, settings, required=required))
    app.add_check("events", events.ping, timeout=settings.nats_check_seconds, required=required)
    app.provide(Publisher, events.publisher)
    app.add_problems({EventsUnavailableError: unavailable_problem})
    app.on_settings_change(events.use_changed)
    return events


@dataclass(frozen=True, slots=True)
class Registration:
    """A consumer that was added."""

    consumer: Consumer
    durable: Durable
    inbox: Inbox | None
    max_in_flight: int
    max_deliveries: int
    backoff_seconds: Sequence[float]
    deadline_seconds: float


class Events:
    """A NATS server with JetStream. `publisher` publishes, and consumers run beside the requests of the service."""

    def __init__(self, app: App, settings: NatsSettings, *, required: bool = True) -> None:
        self._app = app
        self._settings = settings
        self._required = required
        self._connection = Connection(settings, app.name)
        self.publisher: Publisher = Publisher(
            self._connection,
            app.telemetry,
            seconds=settings.nats_publish_seconds,
            address=settings.nats_address,
            restore_streams=self._restore_streams,
        )
        self._streams: list[Stream] = []
        self._registrations: list[Registration] = []
        self._runners: dict[str, Runner] = {}
        self._late_set_up: asyncio.Task[None] | None = None
        self._restoring = asyncio.Lock()
        self._restored_at = -RESTORE_SECONDS
        self._logged_at = -LOG_SECONDS

    def use_changed(self, before: BaseModel, after: BaseModel) -> None:
        """Use changed credentials for the next connection. For `App.on_settings_change`."""
        self._connection.settings = counterpart(self._connection.settings, before, after)

    # For `create_app`.

    def ensure_stream(self, name: str, subjects: Sequence[str], **options: Any) -> None:
        """Create a stream if it is missing: at the start, and when the server has lost it. It is never changed.

        `options` are those of `nats.js.api.StreamConfig`, such as `num_replicas=3` and `max_age` in seconds. If the
        stream exists without one of the subjects, the start fails with `ConsumerError`.
        """
        if NAME.fullmatch(name) is None:
            raise ValueError(f"{name!r} is not the name of a stream; use letters, digits, '-' and '_'")
        self._streams.append(Stream(name, tuple(subjects), options))

    def add_consumer(
        self,
        subject: str,
        consumer: Consumer,
        *,
        stream: str,
        durable: str,
        inbox: Inbox | None = None,
        max_in_flight: int = 10,
        max_deliveries: int = 8,
        backoff_seconds: Sequence[float] = BACKOFF_SECONDS,
        ack_wait_seconds: float = 30.0,
        deadline_seconds: float = 60.0,
    ) -> None:
        """Consume the events of a subject while the service runs.

        `durable` names the consumer on the server. All instances share it, and each event goes to one of them. Another
        name begins again with the first event of the stream. `inbox` stores the ids of processed events in the
        transaction of the consumer, so that each is processed once.

        Up to `max_in_flight` events are processed at the same time by one instance, so their order is not kept; pass 1
        and run one instance to keep it. After a failure, the event is delivered again after the next of
        `backoff_seconds`, less up to half of it at random; the last one is repeated. After `max_deliveries` it goes to
        the dead letters, with the subject `<subject>.dead`. An event whose instance has died is delivered again after
        `ack_wait_seconds`; a slow consumer extends them by itself. `deadline_seconds` limits one call of the consumer.
        """
        if NAME.fullmatch(durable) is None:
            raise ValueError(f"durable is {durable!r}; use letters, digits, '-' and '_'")
        if SUBJECT.fullmatch(subject) is None:
            raise ValueError(
                f"{subject!r} is not a subject; write words with dots between them, such as orders.created"
            )
        if subject.endswith(">"):
            raise ValueError(
                f"the subject {subject!r} also matches its own dead letters, which end with {DEAD}; use '*' for a word"
            )
        if max_in_flight < 1 or max_deliveries < 1:
            raise ValueError(
                f"max_in_flight is {max_in_flight} and max_deliveries is {max_deliveries}; both must be 1 or more"
            )
        if not backoff_seconds or min(backoff_seconds) <= 0 or min(ack_wait_seconds, deadline_seconds) <= 0:
            raise ValueError("backoff_seconds, ack_wait_seconds and deadline_seconds must be more than 0")
        if any(durable == other.durable.name for other in self._registrations):
            raise ValueError(f"two consumers have the durable name {durable!r}; change one")
        self._registrations.append(
            Registration(
                consumer,
                Durable(durable, stream, subject, ack_wait_seconds),
                inbox,
                max_in_flight,
                max_deliveries,
                tuple(backoff_seconds),
                deadline_seconds,
            )
        )
        name = f"{stream}.{durable}"

        async def run() -> None:
            await self._runners[name].run()

        self._app.add_background_task(f"consumer {durable}", run, ends_when_draining=True, required=self._required)

    async def ping(self) -> None:
        """Ask the server for a sign of life, for readiness checks. Raises if there is none."""
        try:
            await self._connection.client.flush()
        except (nats_errors.Error, TimeoutError) as error:
            raise EventsUnavailableError(f"{self._connection.name} does not respond to a ping: {error}") from error

    async def __aenter__(self) -> Self:
        for registration in self._registrations:
            durable = registration.durable
            self._runners[f"{durable.stream}.{durable.name}"] = self._runner(registration)
        if not self._required:
            self._connection.on_change.append(self._on_change)
        await self._connection.open(wait=self._required)
        if self._required:
            try:
                await self._set_up_all()
            except BaseException:
                await self._connection.close()
                raise
            self._connection.on_change.append(self._on_change)
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.close()
        if self._late_set_up is not None:
            self._late_set_up.cancel()

    def _runner(self, registration: Registration) -> Runner:
        app, durable = self._app, registration.durable
        method = ConsumerMethod(registration.consumer, app.parts.providers, registration.inbox)
        telemetry = MessageTelemetry(
            app.telemetry, consumer=durable.name, subject=durable.subject, address=self._settings.nats_address
        )
        processing = Processing(
            app,
            method,
            self.publisher,
            telemetry,
            consumer=durable.name,
            max_deliveries=registration.max_deliveries,
            backoff_seconds=registration.backoff_seconds,
            deadline_seconds=registration.deadline_seconds,
        )
        return Runner(
            durable,
            processing.process,
            self._connection,
            app.draining,
            self._set_up,
            max_in_flight=registration.max_in_flight,
        )

    async def _set_up(self, client: Client) -> None:
        for stream in self._streams:
            await stream.ensure(client)

    async def _set_up_all(self) -> None:
        """Create what is missing on the server. A mistake in it stops the start."""
        client = self._connection.client
        try:
            await self._set_up(client)
            for registration in self._registrations:
                await registration.durable.ensure(client)
        except (nats_errors.Error, TimeoutError) as error:
            raise EventsUnavailableError(
                f"{self._connection.name} does not respond to requests of JetStream: {error}; "
                "check that JetStream is enabled for the account"
            ) from error

    def _on_change(self) -> None:
        """After each connection, create the streams again that the server has lost."""
        if self._late_set_up is not None:
            self._late_set_up.cancel()
            self._late_set_up = None
        if self._connection.connected.is_set():
            self._late_set_up = asyncio.create_task(self._set_up_later(), name="streams of NATS")

    async def _set_up_later(self) -> None:
        for number in count():
            if await self._is_set_up():
                return
            await asyncio.sleep(min(RESTORE_SECONDS * 2**number, MAX_RESTORE_SECONDS))

    async def _restore_streams(self) -> bool:
        """Create the streams that the server has lost, at most once in a while. False if that fails."""
        async with self._restoring:
            if monotonic() - self._restored_at < RESTORE_SECONDS:
                return True  # by another event that was published at the same time
            if not self._streams or not await self._is_set_up():
                return False
            self._restored_at = monotonic()
            return True

    async def _is_set_up(self) -> bool:
        """Create the streams that are missing. False if that fails."""
        try:
            await self._set_up(self._connection.client)
        except (EventsUnavailableError, ConsumerError, nats_errors.Error, OSError) as error:
            if monotonic() - self._logged_at >= LOG_SECONDS:
                self._logged_at = monotonic()
                log.warning(
                    "streams not set up", server=self._connection.name, reason=str(error) or type(error).__name__
                )
            return False
        return True
