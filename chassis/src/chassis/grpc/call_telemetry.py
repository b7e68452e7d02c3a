"""Observes calls: one clock, one status, from which span, metrics and access line are made."""

from datetime import UTC, datetime
from time import perf_counter, time
from typing import Any

from grpc import StatusCode
from opentelemetry.trace import Status
from opentelemetry.trace import StatusCode as SpanStatus

from ..context import RequestContext
from ..telemetry import Telemetry
from ..telemetry.levels import LEVELS
from ..telemetry.spans import RequestSpan
from .call import Call, Metadatum, headers_of, info_of
from .metrics import OTHER, SYSTEM, CallKey, CallMetrics
from .status import SERVER_ERRORS, STATUSES

FAILED = Status(SpanStatus.ERROR)
# Failures of the service. The others are intended, such as a limit, or depend on the client.
FAILURES = frozenset({StatusCode.UNKNOWN, StatusCode.INTERNAL, StatusCode.DATA_LOSS})
CALLER, OWN = "caller", "own"


class CallTelemetry:
    """Observes the calls of one server."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._log = telemetry.logs.access_logger()
        self._metrics = CallMetrics.of(telemetry)
        self.port: int | None = None
        """The port of the server, for spans."""

    def begin(self, path: str, metadata: tuple[Metadatum, ...], *, is_known: bool, is_probe: bool) -> Call:
        """Begin to observe a call. The method runs in the `context` of the result."""
        method = path.removeprefix("/") if is_known else OTHER
        headers = headers_of(metadata)
        info = info_of(headers)
        tracing = self._telemetry.tracing
        begin = tracing.begin_untraced if is_probe else tracing.begin
        context: RequestContext = begin(info, method if is_known else SYSTEM, headers)
        context.info = info
        call = Call(path, method, headers, info, context)
        call.is_probe = is_probe
        self._metrics.active.inc()
        return call

    def end(self, call: Call) -> None:
        """Note that a call has ended. Its client has cancelled a call without a status."""
        self._metrics.active.dec()
        seconds = perf_counter() - call.began
        code = call.code or StatusCode.CANCELLED
        context = call.context
        error_type = code.name if code in SERVER_ERRORS else ""
        trace_id = context.trace_id if context.sampled else None
        self._metrics.ended.observe(CallKey(call.method, code.name, error_type), seconds, trace_id)
        facts = self._log.redact(context.facts) if context.facts else {}
        span = context.span if context.sampled else None  # made only when it is read
        if isinstance(span, RequestSpan):
            span.set_attributes(facts | self._attributes(call, code, error_type))
            if error_type:
                span.set_status(FAILED)
            span.end_after(seconds)
        if not call.is_probe:
            line = self._log.json(document_of(call, code, seconds, facts))
            is_failed = STATUSES[code] >= 500 or call.info.error is not None
            self._telemetry.observer.recent.add(line, time(), seconds, is_failed, call.is_stream)
        level = level_of(call, code)
        if LEVELS[level] < self._telemetry.logs.level or (call.is_probe and level == "info"):
            return
        self._log.line(level, self._line(call, level, code, seconds, facts))

    def _attributes(self, call: Call, code: StatusCode, error_type: str) -> dict[str, Any]:
        # `server.address` is the authority that the client has asked for. gRPC does not show it to servers in Python.
        attributes: dict[str, Any] = {
            "rpc.system.name": SYSTEM,
            "rpc.method": call.method,
            "rpc.response.status_code": code.name,
            "network.protocol.name": "http",
            "network.protocol.version": "2",
        }
        optional = {
            "rpc.method_original": call.path.removeprefix("/") if call.method == OTHER else None,
            "error.type": error_type,
            "server.port": self.port,
            "client.address": call.client,
            "user.id": call.info.subject,
        }
        return attributes | {name: value for name, value in optional.items() if value}

    def _line(self, call: Call, level: str, code: StatusCode, seconds: float, facts: dict[str, Any]) -> dict[str, Any]:
        context = call.context
        line: dict[str, Any] = {
            "timestamp": datetime.now(UTC),
            "level": level,
            "event": "call",
            "method": call.path.removeprefix("/"),
            "code": code.name,
            "duration_ms": int(seconds * 1_000_000) / 1000,
            "request_messages": call.request_messages,
            "request_bytes": call.request_bytes,
            "response_messages": call.response_messages,
            "response_bytes": call.response_bytes,
            "client": call.client,
            "request_id": context.request_id,
            "trace_id": context.trace_id,
            "span_id": context.span_id,
        }
        if call.info.subject is not None:
            line["subject"] = call.info.subject
        if call.deadline:
            line["deadline"] = call.deadline
        if call.is_stopped:
            line["shutdown"] = True
        if call.info.error is not None:
            line["error"] = call.info.error.__qualname__
        line |= {f"{key}_" if key in line else key: value for key, value in facts.items()}
        if call.bound_facts:
            bound = self._log.redact(call.bound_facts)
            line |= {key: value for key, value in bound.items() if key not in line}
        return line


def document_of(call: Call, code: StatusCode, seconds: float, facts: dict[str, Any]) -> dict[str, Any]:
    """A call in the list of the last requests. `status` is the one of HTTP that its code corresponds to."""
    context = call.context
    document: dict[str, Any] = {
        "timestamp": datetime.now(UTC),
        "event": "call",
        "method": "gRPC",
        "route": call.method,
        "path": call.path,
        "status": STATUSES[code],
        "code": code.name,
        "duration_ms": int(seconds * 1_000_000) / 1000,
        "request_bytes": call.request_bytes,
        "response_bytes": call.response_bytes,
        "client": call.client,
        "request_id": context.request_id,
        "trace_id": context.trace_id,
        "span_id": context.span_id,
        "error": None if call.info.error is None else call.info.error.__qualname__,
        "subject": call.info.subject,
    }
    return document | {f"{key}_" if key in document else key: value for key, value in facts.items()}


def level_of(call: Call, code: StatusCode) -> str:
    """The level of a call's line."""
    if code in FAILURES or call.deadline == OWN:
        return "error"
    return "warning" if code in SERVER_ERRORS else "info"
