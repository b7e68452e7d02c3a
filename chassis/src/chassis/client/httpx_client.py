"""Outbound HTTP: requests to other services propagate the context of the current request, and are observed."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from functools import cache, partial
from importlib import import_module
from typing import Any

import httpx
from opentelemetry import context as otel_context

from ..context import request_deadline
from ..telemetry import Telemetry
from ..telemetry.client_spans import Call, ClientTelemetry, SentRequest
from ..telemetry.outgoing_context import propagation_headers
from ..telemetry.query_redaction import REDACTED, QueryRedactor
from .origin import DEFAULT_PORTS


def http_client(*, telemetry: Telemetry | None = None, **options: Any) -> httpx.AsyncClient:
    """An `httpx.AsyncClient` whose requests carry `traceparent`, `tracestate`, `baggage` and `x-request-id`.

    They also carry `x-request-timeout-ms`, the time until the response of the current request must start.

    Create one client for each service that you call. Add it with `App.add_resource`, which closes it at the end, and
    pass it to the handlers that need it. `options` are those of `httpx.AsyncClient`, such as `base_url` and `timeout`
    (seconds).

    Each request, redirects included, is observed in the metric `http_client_request_duration_seconds` and gets a client
    span in a sampled trace (OpenTelemetry's semantic conventions for HTTP). The span ends when the body has arrived;
    for a streamed response, when the headers have arrived. A call outside a request starts a new trace. If httpx is
    instrumented by OpenTelemetry too, a call still gets one span. `telemetry` defaults to that of the process.
    """
    hooks = {event: list(functions) for event, functions in options.pop("event_hooks", {}).items()}
    hooks["request"] = [carry_context, *hooks.get("request", [])]
    hooks["response"] = [note_response, *hooks.get("response", [])]
    client = ObservedClient(event_hooks=hooks, **options)
    client.telemetry = telemetry
    return client


class ObservedClient(httpx.AsyncClient):
    """A client that observes how each of its requests ends. Hooks alone do not see failures."""

    telemetry: Telemetry | None = None

    async def send(self, request: httpx.Request, **options: Any) -> httpx.Response:
        """Send a request, and the further requests of its authentication and redirects."""
        telemetry = self.telemetry or Telemetry.installed
        sending = Sending(telemetry.client if telemetry is not None else None)
        token = current_sending.set(sending)
        try:
            with without_other_spans()():
                response = await super().send(request, **options)
        except BaseException as error:
            sending.end(error)
            raise
        finally:
            current_sending.reset(token)
        sending.end()
        return response


class Sending:
    """The calls of one `send`: the request, and those of its authentication and redirects, one after the other."""

    def __init__(self, telemetry: ClientTelemetry | None) -> None:
        self._telemetry = telemetry
        self._call: Call | None = None
        self._count = 0
        self._added: set[str] = set()
        self.response: httpx.Response | None = None

    def begin(self, request: httpx.Request) -> None:
        """Begin the next call, and add the headers of its context, unless the caller has set them."""
        self.end()
        context = otel_context.get_current()
        if self._telemetry is None:
            headers: Mapping[str, str] = propagation_headers(context)
        else:
            self._call = self._telemetry.begin(_sent_request(request, self._count), context)
            headers = self._call.headers
        self._count += 1
        for name, value in {**headers, **deadline_headers()}.items():
            if name in self._added or name not in request.headers:
                request.headers[name] = value
                self._added.add(name)

    def end(self, error: BaseException | None = None) -> None:
        """End the current call, if there is one."""
        call, self._call = self._call, None
        response, self.response = self.response, None
        if call is None:
            return
        if response is None:
            call.end(error=error)
        else:
            # "HTTP/1.1" and "HTTP/2"
            version = response.http_version.removeprefix("HTTP/")
            call.end(status=response.status_code, http_version=version, error=error)


def _sent_request(request: httpx.Request, resend_count: int) -> SentRequest:
    url = request.url
    port = url.port or DEFAULT_PORTS.get(url.scheme)
    return SentRequest(request.method, url.host, port, partial(shown_url, url), resend_count=resend_count)


def shown_url(url: httpx.URL, redact_query: QueryRedactor) -> str:
    """The URL without credentials, and without the values of secret keys in its query."""
    if url.userinfo:
        url = url.copy_with(username=REDACTED, password=REDACTED)
    if not url.query:
        return str(url)
    before, _, rest = str(url).partition("?")
    _, hash_mark, fragment = rest.partition("#")
    return f"{before}?{redact_query(url.query)}{hash_mark}{fragment}"


# Not stored in the request, because authentication creates requests of its own.
current_sending: ContextVar[Sending | None] = ContextVar("sending", default=None)


async def carry_context(request: httpx.Request) -> None:
    """A request hook of httpx: begin a call, and add the headers of its context, unless the caller has set them."""
    (current_sending.get() or Sending(None)).begin(request)


async def note_response(response: httpx.Response) -> None:
    """A response hook of httpx: the headers of a response have arrived."""
    sending = current_sending.get()
    if sending is not None:
        sending.response = response


def deadline_headers() -> dict[str, str]:
    """The header that hands the deadline of the current request on, for a call that is made now. Empty without one."""
    remaining = request_deadline()
    return {} if remaining is None else {"x-request-timeout-ms": str(int(remaining * 1000))}


@cache
def without_other_spans() -> "type[AbstractContextManager[None]]":
    """Prevents a second span by OpenTelemetry's own instrumentation of httpx, if its package is installed."""
    try:
        module = import_module("opentelemetry.instrumentation.utils")
    except ImportError:
        return nullcontext
    suppress: type[AbstractContextManager[None]] = module.suppress_http_instrumentation
    return suppress
