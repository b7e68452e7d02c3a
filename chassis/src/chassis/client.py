"""Outbound HTTP: requests to other services carry on the context of the current request."""

from typing import Any

import httpx
from opentelemetry import context as otel_context

from .context import request_context
from .telemetry.environment import inject


def http_client(**options: Any) -> httpx.AsyncClient:
    """An `httpx.AsyncClient` whose requests carry `traceparent`, `tracestate`, `baggage` and `x-request-id`.

    Make one for each service that you call, add it by `App.add_resource`, which closes it at the end, and pass it to
    the handlers that need it. `options` are those of `httpx.AsyncClient`, such as `base_url` and `timeout` (seconds).
    """
    hooks = {event: list(functions) for event, functions in options.pop("event_hooks", {}).items()}
    hooks["request"] = [carry_context, *hooks.get("request", [])]
    return httpx.AsyncClient(event_hooks=hooks, **options)


async def carry_context(request: httpx.Request) -> None:
    """A request hook of httpx: add the headers of the current context, unless the caller has set them."""
    carrier: dict[str, str] = {}
    context = otel_context.get_current()
    inject(carrier, context)
    current = request_context(context)
    if current is not None:
        carrier["x-request-id"] = current.request_id
    for name, value in carrier.items():
        request.headers.setdefault(name, value)
