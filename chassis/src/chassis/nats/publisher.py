"""`Publisher`: publishes events to JetStream, acknowledged, with trace context, a span and metrics."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from time import perf_counter
from typing import Any, NamedTuple
from uuid import uuid4

from nats import errors as nats_errors
from nats.js import errors as stream_errors
from opentelemetry import context as otel_context
from opentelemetry.trace import Status, StatusCode, set_span_in_context
from pydantic import BaseModel

from ..delivery import OutboundMessage
from ..telemetry import Telemetry
from ..telemetry.client_spans import ClientSpan, ProducerSpan
from ..telemetry.error_type import qualified_name
from ..telemetry.outgoing_context import propagation_headers
from .connection import Connection
from .errors import EventRejectedError, EventsError, EventsUnavailableError
from .message import MESSAGE_ID
from .metrics import SYSTEM, MessagingMetrics, SentKey

FAILED = Status(StatusCode.ERROR)
JSON = {"Content-Type": "application/json"}
BAD_REQUEST = 400


class Published(NamedTuple):
    """The acknowledgement of an event."""

    stream: str
    sequence: int
    is_duplicate: bool
    """Whether the stream had an event with this message id already, and so did not store this one."""


class Publisher:
    """Publishes events. Provided to handlers: `async def post(self, body: NewOrder, publisher: Publisher) -> Order`."""

    def __init__(
        self,
        connection: Connection,
        telemetry: Telemetry,
        *,
        seconds: float,
        address: tuple[str, int],
        restore_streams: Callable[[], Awaitable[bool]],
    ) -> None:
        """`seconds` is the longest time until an event is acknowledged.

        `restore_streams` is called when no stream takes an event. It says whether another attempt may succeed.
        """
        self._connection = connection
        self._telemetry = telemetry
        self._metrics = MessagingMetrics.of(telemetry).sent
        self._seconds = seconds
        self._restore_streams = restore_streams
        self._attributes: dict[str, Any] = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": "publish",
            "messaging.operation.type": "send",
            "server.address": address[0],
            "server.port": address[1],
        }

    async def publish(
        self,
        subject: str,
        payload: BaseModel | bytes,
        *,
        message_id: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Published:
        """Publish an event, and wait until its stream has stored it.

        A model is sent as JSON. The stream stores one event for each `message_id` within its duplicate window, which is
        two minutes by default. It belongs to the stream and not to the subject, so let it name the event, such as
        `created-<order id>`. Without one, a random id is sent, so that consumers can recognize the event.

        Raises `EventsUnavailableError` if it is not acknowledged in time, and `EventRejectedError` if it never can be.
        """
        data = payload if isinstance(payload, bytes) else payload.model_dump_json(by_alias=True).encode()
        message_id = message_id or uuid4().hex
        context = otel_context.get_current()
        span = self._telemetry.client.start_span(f"publish {subject}", context, ProducerSpan)
        if span is not None:
            context = set_span_in_context(span, context)
        sent = ({} if isinstance(payload, bytes) else JSON) | dict(headers or {})
        sent |= propagation_headers(context) | {MESSAGE_ID: message_id}
        began = perf_counter()
        failure: BaseException | None = None
        try:
            return await self._publish(subject, data, sent)
        except BaseException as error:
            failure = error
            raise
        finally:
            seconds = perf_counter() - began
            recorded = span if isinstance(span, ClientSpan) else None
            error_type = "" if failure is None else qualified_name(type(failure))
            trace_id = None if recorded is None else recorded.request.trace_id
            self._metrics.observe(SentKey(subject, error_type), seconds, trace_id)
            if recorded is not None:
                attributes = {
                    "messaging.destination.name": subject,
                    "messaging.message.id": message_id,
                    "messaging.message.body.size": len(data),
                }
                if failure is not None:
                    attributes["error.type"] = error_type
                    recorded.set_status(FAILED)
                recorded.set_attributes(self._attributes | attributes)
                recorded.end_after(seconds)

    async def deliver(self, message: OutboundMessage) -> None:
        """Publish a message of an outbox. Its id is the message id, so that the stream stores it once."""
        await self.publish(message.subject, message.payload, message_id=message.id, headers=message.headers)

    async def _publish(self, subject: str, data: bytes, headers: dict[str, str]) -> Published:
        client = await self._connection.wait(self._seconds)
        size = len(data) + _size_of(headers)
        if size > client.max_payload:
            # nats-py does not count the headers, and the server would end the connection.
            raise EventRejectedError(
                f"the event for {subject} has {size} bytes with its headers, more than the {client.max_payload} bytes "
                "that the server allows"
            )
        publish = partial(client.jetstream().publish, subject, data, timeout=self._seconds, headers=headers)
        try:
            try:
                answer = await publish()
            except stream_errors.NoStreamResponseError:
                # The server has stored nothing. It may have lost the stream.
                async with asyncio.timeout(self._seconds):
                    is_restored = await self._restore_streams()
                if not is_restored:
                    raise
                answer = await publish()
        except (nats_errors.Error, OSError, TimeoutError) as error:
            raise self._translated(error, subject) from error
        return Published(answer.stream, answer.seq, bool(answer.duplicate))

    def _translated(self, error: Exception, subject: str) -> EventsError:
        if isinstance(error, nats_errors.BadSubjectError):
            return EventRejectedError(f"{subject!r} is not a subject; use letters, digits, '-' and '_' between dots")
        if isinstance(error, nats_errors.BadHeaderError):
            return EventRejectedError(f"the event for {subject} has a header whose name is not valid: {error}")
        if isinstance(error, stream_errors.NoStreamResponseError):
            return EventsUnavailableError(
                f"no stream takes {subject}; add the subject to a stream, such as with events.ensure_stream"
            )
        if isinstance(error, TimeoutError):
            return EventsUnavailableError(f"{subject} was not acknowledged in {self._seconds:g} seconds")
        if isinstance(error, stream_errors.APIError) and error.code == BAD_REQUEST:
            return EventRejectedError(f"the stream rejects the event for {subject}: {error.description}")
        return EventsUnavailableError(f"{subject} was not published: {error}")


def _size_of(headers: Mapping[str, str]) -> int:
    """The bytes of the headers in the protocol: a line for the version, one for each header, and an empty one."""
    lines = (len(f"{name}: {value}\r\n".encode()) for name, value in headers.items())
    return len("NATS/1.0\r\n") + sum(lines) + len("\r\n")
