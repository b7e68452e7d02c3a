"""Observes the processing of messages: one clock, one outcome, from which span, metrics and log line are made."""

from datetime import UTC, datetime
from time import perf_counter
from typing import Any

from opentelemetry.context import Context
from opentelemetry.trace import Status, StatusCode, get_current_span

from ..context import RequestContext
from ..request_info import REQUEST_ID
from ..telemetry import Telemetry
from ..telemetry.environment import extract
from ..telemetry.error_type import qualified_name
from ..telemetry.levels import LEVELS
from .message import Message
from .metrics import SYSTEM, MessagingMetrics, ProcessedKey

FAILED = Status(StatusCode.ERROR)
NO_CONTEXT = Context()
# By outcome.
LEVEL_OF = {"dead": "error", "retried": "warning"}


class MessageTelemetry:
    """Observes the messages of one consumer."""

    def __init__(self, telemetry: Telemetry, *, consumer: str, subject: str, address: tuple[str, int]) -> None:
        """`subject` is that of the consumer, with its wildcards, for the name of spans and metrics."""
        self._telemetry = telemetry
        self._log = telemetry.logs.access_logger()
        self._metrics = MessagingMetrics.of(telemetry)
        self._consumer = consumer
        self._subject = subject
        self._in_hand = self._metrics.in_hand.labels(consumer)
        self._dead_letters = self._metrics.dead_letters.labels(consumer)
        self._attributes: dict[str, Any] = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.destination.template": subject,
            "messaging.consumer.group.name": consumer,
            "server.address": address[0],
            "server.port": address[1],
        }

    def begin(self, message: Message) -> "MessageObservation":
        """Begin to observe a message. `context` of the result is that of its processing."""
        producer = get_current_span(extract(message.headers, NO_CONTEXT)).get_span_context()
        request_id = message.headers.get("x-request-id", "")
        if not REQUEST_ID.fullmatch(request_id.encode("latin-1", "replace")):
            request_id = ""
        context = self._telemetry.tracing.begin_message(f"process {self._subject}", producer, request_id)
        self._in_hand.inc()
        return MessageObservation(message, context)

    def end(self, observation: "MessageObservation", outcome: str, error: BaseException | None) -> None:
        """Note that a message has been processed. `outcome` says what became of it."""
        self._in_hand.dec()
        seconds = perf_counter() - observation.began
        message, context = observation.message, observation.context
        error_type = "" if error is None else qualified_name(type(error))
        trace_id = context.trace_id if context.sampled else None
        self._metrics.processed.observe(ProcessedKey(self._subject, self._consumer, error_type), seconds, trace_id)
        if outcome == "dead":
            self._dead_letters.inc()
        facts = self._log.redact(context.facts) if context.facts else {}
        if context.sampled:
            attributes = {
                **facts,
                "messaging.destination.name": message.subject,
                "messaging.message.id": message.id,
                "messaging.message.body.size": len(message.data),
            }
            span = context.span
            if error is not None:
                attributes["error.type"] = error_type
                span.set_status(FAILED)
            span.set_attributes(self._attributes | attributes)
            span.end()
        level = LEVEL_OF.get(outcome, "info")
        if LEVELS[level] < self._telemetry.logs.level:
            return
        line = {
            "timestamp": datetime.now(UTC),
            "level": level,
            "event": "message",
            "consumer": self._consumer,
            "subject": message.subject,
            "outcome": outcome,
            "duration_ms": int(seconds * 1_000_000) / 1000,
            "message_id": message.id,
            "sequence": message.sequence,
            "deliveries": message.deliveries,
            "message_bytes": len(message.data),
            "request_id": context.request_id,
            "trace_id": context.trace_id,
            "span_id": context.span_id,
        }
        if error is not None:
            line["error"] = type(error).__qualname__
        line |= {f"{key}_" if key in line else key: value for key, value in facts.items()}
        self._log.line(level, line)


class MessageObservation:
    """A message that is being processed."""

    def __init__(self, message: Message, context: RequestContext) -> None:
        self.message: Message = message
        self.context: RequestContext = context
        self.began: float = perf_counter()
