"""Spans and metrics of calls to other services, by the semantic conventions for HTTP clients.

A call whose trace is not sampled makes no span: it passes on the context of its request.
"""

from collections.abc import Callable
from time import perf_counter
from typing import TYPE_CHECKING, Any

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
    set_span_in_context,
)

from ..context import RequestContext
from .client_metrics import CallKey, CallMetrics
from .error_type import qualified_name
from .known_methods import OTHER_METHOD, method_in_names
from .query_redaction import REDACTED, QueryRedactor
from .redaction import Redactor
from .spans import RequestSpan
from .suppression import is_suppressed
from .tracing import Tracing

if TYPE_CHECKING:
    import httpx

DEFAULT_PORTS = {"http": 80, "https": 443}
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

    def begin(self, request: "httpx.Request", context: Context, resend_count: int = 0) -> "Call | None":
        """Begin a call in `context`; None where instrumentation is suppressed.

        `resend_count` says how often it was sent before, for a redirect or for authentication.
        """
        return None if is_suppressed(context) else Call(self, request, context, resend_count)

    def start_span(self, method: str, context: Context, kind: type[ClientSpan] = ClientSpan) -> Span | None:
        """The span of a call in `context`; None for that of the context itself."""
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


class Call:
    """One request that is sent to another service, until its response."""

    def __init__(self, telemetry: ClientTelemetry, request: "httpx.Request", context: Context, resends: int) -> None:
        self._telemetry = telemetry
        self._request = request
        self._method = request.method if request.method in telemetry.known_methods else OTHER_METHOD
        span = telemetry.start_span(method_in_names(self._method), context)
        self._span = span if isinstance(span, ClientSpan) else None
        self._resends = resends
        self.context: Context = context if span is None else set_span_in_context(span, context)
        """The context that the request carries on."""
        self._began = perf_counter()

    def end(self, response: "httpx.Response | None", error: BaseException | None = None) -> None:
        """End the call with its response, or because of `error`."""
        seconds = perf_counter() - self._began
        url = self._request.url
        port = url.port or DEFAULT_PORTS.get(url.scheme)
        status = response.status_code if response is not None else 0
        failure = str(status) if status >= 400 else "" if error is None else qualified_name(type(error))
        key = CallKey(self._method, url.host, str(port or ""), str(status) if status else "", failure)
        span = self._span
        self._telemetry.metrics.observe(key, seconds, None if span is None else span.request.trace_id)
        if span is None:
            return
        span.set_attributes(self._attributes(key, port, response))
        if failure:
            span.set_status(FAILED)
            if error is not None:
                span.record_exception(error)
        span.end_after(seconds)

    def _attributes(self, key: CallKey, port: int | None, response: "httpx.Response | None") -> dict[str, Any]:
        """Semantic conventions for HTTP client spans: the required attributes, and the recommended ones at hand."""
        attributes: dict[str, Any] = {
            "http.request.method": self._method,
            "server.address": key.server_address,
            "url.full": shown_url(self._request.url, self._telemetry.redact_query),
        }
        if port:
            attributes["server.port"] = port
        if self._method == OTHER_METHOD:
            attributes["http.request.method_original"] = self._request.method
        if response is not None:
            attributes["http.response.status_code"] = response.status_code
            # "HTTP/1.1" and "HTTP/2"
            attributes["network.protocol.version"] = response.http_version.removeprefix("HTTP/")
        if key.error_type:
            attributes["error.type"] = key.error_type
        if self._resends:
            attributes["http.request.resend_count"] = self._resends
        return attributes


def shown_url(url: "httpx.URL", redact_query: QueryRedactor) -> str:
    """The URL without credentials, and without the values of secret keys in its query."""
    if url.userinfo:
        url = url.copy_with(username=REDACTED, password=REDACTED)
    if not url.query:
        return str(url)
    before, _, rest = str(url).partition("?")
    _, hash_mark, fragment = rest.partition("#")
    return f"{before}?{redact_query(url.query)}{hash_mark}{fragment}"
