"""The headers that propagate the context of a request to another service."""

from opentelemetry.context import Context
from opentelemetry.trace import Span, set_span_in_context

from ..context import RequestContext, request_context
from .environment import get_global_textmap, inject
from .propagation import W3C

# The propagator that OpenTelemetry makes at its import, and `OTEL_PROPAGATORS` or your code replaces.
_first = get_global_textmap()
PLAIN = _first if _first.fields == W3C.fields else None


def propagation_headers(context: Context, span: Span | None = None) -> dict[str, str]:
    """The headers that propagate `context` to another service, with `span` as the current one if it is given.

    Names are in lower case. They are the formats of `OTEL_PROPAGATORS`, and `x-request-id` inside of a request.
    """
    # Most requests have neither baggage nor `tracestate`. Then this is much faster than the propagators.
    if (
        isinstance(context, RequestContext)
        and not context
        and not context.trace_state
        and get_global_textmap() is PLAIN
    ):
        return {"traceparent": _traceparent(context, span), "x-request-id": context.request_id}
    carrier: dict[str, str] = {}
    inject(carrier, context if span is None else set_span_in_context(span, context))
    headers = {name.lower(): value for name, value in carrier.items()}
    current = request_context(context)
    if current is not None:
        headers["x-request-id"] = current.request_id
    return headers


def _traceparent(request: RequestContext, span: Span | None) -> str:
    """W3C Trace Context, 3.2, version 00, with the flags of level 2."""
    if span is None:
        return f"00-{request.trace_id}-{request.span_id}-0{2 * request.has_random_id + request.sampled}"
    ids = span.get_span_context()
    return f"00-{ids.trace_id:032x}-{ids.span_id:016x}-{ids.trace_flags:02x}"
