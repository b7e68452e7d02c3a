"""Calls to other services, as part of the request that makes them."""

from typing import Any

import httpx
from opentelemetry import context as otel_context
from opentelemetry.propagate import inject

from .context import request_context


def http_client(**options: Any) -> httpx.AsyncClient:
    """An `httpx.AsyncClient` whose requests carry `traceparent`, `tracestate`, `baggage` and `x-request-id`.

    Make one for each service that is called, list it among the `resources` in `app.py`, and give it to
    the handlers that need it. `options` are httpx's own, such as `base_url` and `timeout` (seconds).
    """
    hooks = {kind: list(functions) for kind, functions in options.pop("event_hooks", {}).items()}
    hooks["request"] = [carry_context, *hooks.get("request", [])]
    return httpx.AsyncClient(event_hooks=hooks, **options)


async def carry_context(request: httpx.Request) -> None:
    """httpx's hook: put the current context on `request`, unless the caller has put another there."""
    carrier: dict[str, str] = {}
    context = otel_context.get_current()
    inject(carrier, context)
    current = request_context(context)
    if current is not None:
        carrier["x-request-id"] = current.request_id
    for name, value in carrier.items():
        request.headers.setdefault(name, value)
