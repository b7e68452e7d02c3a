"""Processes one message: parsed, handled, and acknowledged, or delivered again, or sent to the dead letters."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from itertools import count
from random import uniform
from time import monotonic
from typing import Any

import structlog
from nats import errors as nats_errors
from nats.aio.msg import Msg
from opentelemetry import context as otel_context
from starlette.requests import Request
from structlog.typing import FilteringBoundLogger

from ..api.repeatable import repeat
from ..app import App
from ..context import request_context
from ..request_info import RequestInfo
from ..unavailable import UnavailableError
from ..work_scope import scope_of_work
from .consumer import ConsumerMethod
from .errors import DeadLetterError, EventRejectedError, EventsError
from .message import MESSAGE_ID, Message
from .message_telemetry import MessageTelemetry
from .publisher import Publisher
from .streams import DEAD

log: FilteringBoundLogger = structlog.get_logger()

FIRST_WAIT_SECONDS = 0.5
MAX_WAIT_SECONDS = 30.0
OWN_HEADERS = ("nats-", "traceparent", "tracestate", "baggage", "x-request-id")
MAX_REASON = 500  # characters of a header


class GivenBackError(Exception):
    """The service stops, so the message is delivered again, to another instance."""


class Processing:
    """Processes the messages of one consumer."""

    def __init__(
        self,
        app: App,
        method: ConsumerMethod,
        publisher: Publisher,
        telemetry: MessageTelemetry,
        *,
        consumer: str,
        max_deliveries: int,
        backoff_seconds: Sequence[float],
        deadline_seconds: float,
    ) -> None:
        self._app = app
        self._method = method
        self._publisher = publisher
        self._telemetry = telemetry
        self._consumer = consumer
        self._max_deliveries = max_deliveries
        self._backoff_seconds = backoff_seconds
        self._deadline_seconds = deadline_seconds

    async def process(self, received: Msg) -> None:
        """Process a message to its end. If the task is cancelled, the message is given back to the server."""
        message = message_of(received)
        observation = self._telemetry.begin(message)
        token = otel_context.attach(observation.context)
        outcome, failure = "returned", None
        try:
            outcome, failure = await self._outcome(received, message)
        except (asyncio.CancelledError, GivenBackError) as error:
            await settle(received.nak())
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            otel_context.detach(token)
            self._telemetry.end(observation, outcome, failure)

    async def _outcome(self, received: Msg, message: Message) -> tuple[str, Exception | None]:
        """The outcome of the message, and the failure."""
        try:
            if message.deliveries > self._max_deliveries:
                # It has ended the process each time, or its acknowledgement was lost.
                raise DeadLetterError(f"delivered {message.deliveries} times without an acknowledgement")
            event = self._method.parse(message)
            is_new = await self._handled(message, event)
        except DeadLetterError as error:
            return await self._bury(received, message, error, str(error)), error
        except GivenBackError:
            raise
        except Exception as error:
            log.warning("message failed", consumer=self._consumer, deliveries=message.deliveries, exc_info=error)
            if message.deliveries >= self._max_deliveries:
                reason = f"failed {message.deliveries} times, with {type(error).__qualname__}: {error}"
                return await self._bury(received, message, error, reason), error
            await settle(received.nak(delay=self._delay(message.deliveries)))
            return "retried", error
        await settle(received.ack())
        return "acknowledged" if is_new else "duplicate", None

    async def _handled(self, message: Message, event: Any) -> bool:
        """Call the consumer, as often as a dependency cannot be reached. False if it was processed before."""
        method = self._method
        for number in count():
            request = self._request(message)
            call = partial(method.call, message, event, request, self._consumer)
            try:
                async with asyncio.timeout(self._deadline_seconds):
                    return await repeat(call, method.attempts, method.name)
            except UnavailableError as error:
                if not error.is_outage:
                    raise
                seconds = min(FIRST_WAIT_SECONDS * 2**number, MAX_WAIT_SECONDS) * uniform(0.5, 1.0)  # noqa: S311 - jitter
                log.warning(
                    "message waits for a dependency",
                    consumer=self._consumer,
                    seconds=round(seconds, 3),
                    reason=f"{type(error).__qualname__}: {error}",
                )
                with suppress(TimeoutError):
                    async with asyncio.timeout(seconds):
                        await self._app.draining.wait()
                if self._app.draining.is_set():
                    raise GivenBackError from error
        raise AssertionError

    def _request(self, message: Message) -> Request:
        """A request that stands for the message, for providers that need one: a POST with the message's headers."""
        info = RequestInfo()
        info.deadline_at = monotonic() + self._deadline_seconds
        context = request_context(otel_context.get_current())
        if context is not None:
            context.info = info
        headers = (
            (name.lower().encode("latin-1", "replace"), value.encode("latin-1", "replace"))
            for name, value in message.headers.items()
        )
        return Request(scope_of_work("nats", f"/{message.subject}", info, self._app, headers=headers))

    async def _bury(self, received: Msg, message: Message, error: Exception, reason: str) -> str:
        """Publish the dead letter, and end the message only after that, so that it cannot be lost."""
        headers = {name: text for name, text in message.headers.items() if not name.lower().startswith(OWN_HEADERS)}
        headers |= {
            "Dead-Letter-Reason": reason.replace("\r", " ").replace("\n", " ")[:MAX_REASON],
            "Dead-Letter-Consumer": self._consumer,
            "Dead-Letter-Message-Id": message.id,
            "Dead-Letter-Deliveries": str(message.deliveries),
        }
        # Not the publisher's id, which several events may have.
        letter_id = f"dead:{self._consumer}:{place_of(message.stream, message.sequence, message.stored_at)}"
        publish = partial(self._publisher.publish, f"{message.subject}{DEAD}", message_id=letter_id)
        try:
            try:
                await publish(message.data, headers=headers)
            except EventRejectedError:
                # With the headers of the letter, the event is too large for the server.
                place = {"Dead-Letter-Stream": message.stream, "Dead-Letter-Sequence": str(message.sequence)}
                letter = {name: text for name, text in headers.items() if name.startswith("Dead-Letter-")}
                await publish(b"", headers=letter | place)
        except EventsError:
            log.exception("dead letter not published", consumer=self._consumer, message_id=message.id)
            await settle(received.nak(delay=self._delay(message.deliveries)))
            return "retried"
        log.error("message is dead", consumer=self._consumer, message_id=message.id, reason=reason[:MAX_REASON])
        await settle(received.term())
        return "dead"

    def _delay(self, deliveries: int) -> float:
        delays = self._backoff_seconds
        return delays[min(deliveries, len(delays)) - 1] * uniform(0.5, 1.0)  # noqa: S311 - jitter


async def settle(answer: Any) -> None:
    """Tell the server what becomes of a message. If that fails, the server delivers it again."""
    try:
        await answer
    except (nats_errors.Error, OSError) as error:
        log.warning("message could not be acknowledged, and is delivered again", reason=str(error))


def message_of(received: Msg) -> Message:
    """The message with its envelope."""
    metadata = received.metadata
    headers = received.headers or {}
    return Message(
        subject=received.subject,
        data=received.data,
        headers=headers,
        id=headers.get(MESSAGE_ID) or place_of(metadata.stream, metadata.sequence.stream, metadata.timestamp),
        stream=metadata.stream,
        sequence=metadata.sequence.stream,
        deliveries=metadata.num_delivered,
        stored_at=metadata.timestamp,
    )


def place_of(stream: str, sequence: int, stored_at: datetime) -> str:
    """An id of an event. It has the time, because the numbers of a stream that was created again begin at 1 again."""
    return f"{stream}:{sequence}:{int(stored_at.timestamp() * 1e6)}"
