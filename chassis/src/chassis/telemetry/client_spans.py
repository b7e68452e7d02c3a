"""Spans and metrics of calls to other services, by the semantic conventions for HTTP clients.

A call whose trace is not sampled makes no span: it passes on the context of its request.
"""

from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any, NamedTuple

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.trace import (
    NonRecordingSpan,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    get_current_span,
)

from ..context import RequestContext
from .client_metrics import CallKey, CallMetrics
from .error_type import qualified_name
from .known_methods import OTHER_METHOD, method_in_names
from .outgoing_context import propagation_headers
from .query_redaction import QueryRedactor
from .redaction import Redactor
from .spans import RequestSpan
from .suppression import is_suppressed
from .tracing import Tracing

FAILED = Status(StatusCode.ERROR)


class ClientSpan(RequestSpan):
    """The span of one sampled call."""

    kind = SpanKind.CLIENT

    def __init__(
        self,
        name: str,
        context: SpanContext,
        parent: SpanContext | None,
        *,
        resource: Resource,
        export: Callable[[RequestSpan], None],
        redactor: Redactor,
    ) -> None:
        ids = (f"{context.trace_id:032x}", f"{context.span_id:016x}")
        request = RequestContext(*ids, "", sampled=True, trace_state=context.trace_state)
        super().__init__(name, request, parent, resource=resource, export=export, redactor=redactor)
        self._context = context

    def get_span_context(self) -> SpanContext:
        """The ids of the span, with all flags of the trace."""
        return self._context


class ProducerSpan(ClientSpan):
    """The span of one message that is sent."""

    kind = SpanKind.PRODUCER


class ClientTelemetry:
    """Observes calls to other services."""

    def __init__(self, tracing: Tracing) -> None:
        self.metrics: CallMetrics = CallMetrics()
        self.redact_query: QueryRedactor = QueryRedactor(tracing.redactor.is_secret)
        self.known_methods: frozenset[str] = tracing.known_methods
        self._tracing = tracing

    def begin(self, request: "SentRequest", context: Context) -> "Call":
        """Begin a call in `context`. It is not observed where instrumentation is suppressed."""
        return Call(self, request, context)

    def start_span(self, method: str, context: Context, kind: type[ClientSpan] = ClientSpan) -> Span | None:
        """The span of a call in `context`; None for that of the context itself."""
        if isinstance(context, RequestContext) and not context.sampled:
            return None
        tracing = self._tracing
        parent = get_current_span(context).get_span_context()
        if not tracing.exporting or (parent.is_valid and not parent.trace_flags.sampled):
            return None
        ids = tracing.provider.id_generator
        if parent.is_valid:
            trace_id, flags, state = parent.trace_id, parent.trace_flags, parent.trace_state
        else:
            # Outside of requests, a call begins a trace. The other service learns whether it is sampled.
            trace_id, state = ids.generate_trace_id(), None
            sampled = TraceFlags.SAMPLED if tracing.samples_root(trace_id) else TraceFlags.DEFAULT
            flags = TraceFlags(TraceFlags.RANDOM_TRACE_ID | sampled)
        own = SpanContext(trace_id, ids.generate_span_id(), False, flags, state)
        if not flags.sampled:
            return NonRecordingSpan(own)
        span = kind(
            method,
            own,
            parent if parent.is_valid else None,
            resource=tracing.resource,
            export=tracing.export,
            redactor=tracing.redactor,
        )
        tracing.announce(span, context)
        return span


class SentRequest(NamedTuple):
    """A request that is sent to another service, as spans and metrics show it."""

    method: str
    server_address: str
    """The host of the URL, which need not be where the request is sent to."""
    server_port: int | None
    url: Callable[[QueryRedactor], str]
    """The URL without secrets. It is called only for a call that is recorded."""
    template: str = ""
    """The path of the URL with placeholders for values; empty if it is not known."""
    resend_count: int = 0
    """How often the request was sent before: retries, redirects, and for authentication."""
    service: str = ""
    """The name of the other service; empty if it has none."""


class Call:
    """One request that is sent to another service, until its response."""

    __slots__ = ("_began", "_is_observed", "_method", "_request", "_span", "_telemetry", "headers")

    def __init__(self, telemetry: ClientTelemetry, request: SentRequest, context: Context) -> None:
        method = request.method if request.method in telemetry.known_methods else OTHER_METHOD
        self._telemetry = telemetry
        self._request = request
        self._method = method
        self._is_observed = not is_suppressed(context)
        span = telemetry.start_span(method_in_names(method), context) if self._is_observed else None
        self._span = span if isinstance(span, ClientSpan) else None
        self.headers: Mapping[str, str] = propagation_headers(context, span)
        """The headers that propagate the call's context; names are in lower case."""
        self._began = perf_counter()

    def end(
        self,
        *,
        status: int = 0,
        http_version: str = "",
        error: BaseException | None = None,
        peer: tuple[str, int] | None = None,
    ) -> None:
        """End the call with the status of its response (0 without one), or because of `error`.

        `http_version` is `1.1` or `2`; `peer` is the address and the port of the connection, if they are known.
        """
        if not self._is_observed:
            return
        seconds = perf_counter() - self._began
        request = self._request
        failure = str(status) if status >= 400 else "" if error is None else qualified_name(type(error))
        port = str(request.server_port or "")
        key = CallKey(self._method, request.server_address, port, str(status) if status else "", failure)
        span = self._span
        self._telemetry.metrics.observe(key, seconds, None if span is None else span.request.trace_id)
        if span is None:
            return
        if request.template:
            span.name = f"{method_in_names(self._method)} {request.template}"
        span.set_attributes(self._attributes(status, http_version, failure, peer))
        if failure:
            span.set_status(FAILED)
            if error is not None:
                span.record_exception(error)
        span.end_after(seconds)

    def _attributes(self, status: int, http_version: str, failure: str, peer: tuple[str, int] | None) -> dict[str, Any]:
        """Semantic conventions for HTTP client spans: the required attributes, and the recommended ones at hand."""
        request = self._request
        attributes: dict[str, Any] = {
            "http.request.method": self._method,
            "server.address": request.server_address,
            "url.full": request.url(self._telemetry.redact_query),
        }
        if request.server_port:
            attributes["server.port"] = request.server_port
        if self._method == OTHER_METHOD:
            attributes["http.request.method_original"] = request.method
        if request.template:
            attributes["url.template"] = request.template
        if request.service:
            attributes["service.peer.name"] = request.service
        if peer is not None:
            attributes["network.peer.address"], attributes["network.peer.port"] = peer
        if status:
            attributes["http.response.status_code"] = status
        if http_version:
            attributes["network.protocol.version"] = http_version
        if failure:
            attributes["error.type"] = failure
        if request.resend_count:
            attributes["http.request.resend_count"] = request.resend_count
        return attributes
