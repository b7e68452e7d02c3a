"""Attempts and calls of a client are observed: spans, metrics, one log line a failed call."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry.context import Context, get_current
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanKind, StatusCode, TraceState
from pydantic import BaseModel

from chassis.client import (
    BadResponseError,
    DependencyUnavailableError,
    Response,
    UnexpectedStatusError,
)
from chassis.client.metrics import CallDurations, DependencyCallKey
from chassis.client.origin import Origin
from chassis.client.telemetry import DependencyTelemetry
from chassis.client.transport import Address, ConnectionLostError, NotSentError
from chassis.context import RequestContext
from chassis.request_info import RequestInfo
from chassis.telemetry.outgoing_context import propagation_headers
from chassis.telemetry.suppression import suppressed

from .support.service import PARENT_ID, TRACE_ID, Observed, observed

ROUTE = "/products/{sku}"


@pytest.fixture(autouse=True)
def _own_context() -> Iterator[None]:
    """The contexts that a test attaches are gone after it."""
    token = otel_context.attach(Context())
    yield
    otel_context.detach(token)


@pytest.fixture
def seen() -> Iterator[Observed]:
    with observed() as seen:
        yield seen


@pytest.fixture
def catalogue(seen: Observed) -> DependencyTelemetry:
    return dependency(seen)


def dependency(seen: Observed, *, scheme: str = "http", host: str = "catalogue", port: int = 80) -> DependencyTelemetry:
    """The telemetry of a dependency."""
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return DependencyTelemetry("catalogue", seen.telemetry, Origin.of(f"{scheme}://{authority}"))


def enter_request(seen: Observed, *, flags: str = "01", **fields: str) -> RequestContext:
    """Make a request of this trace the current one. Its other headers are `fields`."""
    info = RequestInfo()
    info.request_id = "mine"
    info.traceparent = f"00-{TRACE_ID}-{PARENT_ID}-{flags}".encode()
    if fields:
        info.context_fields = {name: [value] for name, value in fields.items()}
    context = seen.telemetry.tracing.begin(info, "GET")
    otel_context.attach(context)
    return context


def attributes_of(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return f"{span.context.span_id:016x}"


def sample(seen: Observed, name: str, **labels: str) -> float | None:
    """The value of one sample; None if there is none."""
    return seen.telemetry.metrics.registry.get_sample_value(name, labels)


def test_attempt_of_a_sampled_request_has_a_span(seen: Observed, catalogue: DependencyTelemetry) -> None:
    request = enter_request(seen)
    attempt = catalogue.begin("GET", ROUTE, "/products/7?page=2", 0, get_current())
    attempt.end(status=200, http_version="1.1", peer=Address("10.0.0.1", 8080))
    (span,) = seen.spans
    assert attributes_of(span) == {
        "http.request.method": "GET",
        "http.response.status_code": 200,
        "network.peer.address": "10.0.0.1",
        "network.peer.port": 8080,
        "network.protocol.version": "1.1",
        "server.address": "catalogue",
        "server.port": 80,
        "service.peer.name": "catalogue",
        "url.full": "http://catalogue/products/7?page=2",
        "url.template": ROUTE,
    }
    assert (span.name, span.kind, span.status.status_code) == (f"GET {ROUTE}", SpanKind.CLIENT, StatusCode.UNSET)
    assert span.parent == request.span_context()
    assert attempt.headers["traceparent"] == f"00-{TRACE_ID}-{id_of(span)}-01"


def test_each_attempt_has_its_number_and_ids(seen: Observed, catalogue: DependencyTelemetry) -> None:
    enter_request(seen)
    headers = []
    for number in range(3):
        attempt = catalogue.begin("GET", ROUTE, "/products/7", number, get_current())
        headers.append(attempt.headers["traceparent"])
        attempt.end(status=503)
    assert [attributes_of(span).get("http.request.resend_count") for span in seen.spans] == [None, 1, 2]
    assert len(set(headers)) == 3


def test_attempt_of_an_unsampled_request_has_no_span(seen: Observed, catalogue: DependencyTelemetry) -> None:
    request = enter_request(seen, flags="00")
    attempt = catalogue.begin("GET", ROUTE, "/products/7", 0, get_current())
    attempt.end(status=200)
    assert seen.spans == []
    assert attempt.headers == {"traceparent": f"00-{TRACE_ID}-{request.span_id}-00", "x-request-id": "mine"}


@pytest.mark.parametrize("flags", ["00", "01", "02", "03"])
def test_headers_are_those_of_the_propagators(seen: Observed, flags: str) -> None:
    request = enter_request(seen, flags=flags)
    # A context with a value is not plain, so OpenTelemetry's propagators write its headers.
    derived = otel_context.set_value("key", "value", request)
    assert propagation_headers(request) == propagation_headers(derived)
    span = seen.telemetry.client.start_span("GET", request)
    if span is not None:
        assert propagation_headers(request, span) == propagation_headers(derived, span)


def test_baggage_and_state_of_the_trace_are_handed_on(seen: Observed, catalogue: DependencyTelemetry) -> None:
    for given in ({"tracestate": "vendor=a"}, {"baggage": "tenant=north"}):
        enter_request(seen, **given)
        assert given.items() <= catalogue.begin("GET", ROUTE, "/products/7", 0, get_current()).headers.items()


def test_baggage_of_a_handler_is_handed_on(seen: Observed, catalogue: DependencyTelemetry) -> None:
    enter_request(seen, flags="00")
    otel_context.attach(baggage.set_baggage("tenant", "north"))
    assert catalogue.begin("GET", ROUTE, "/products/7", 0, get_current()).headers["baggage"] == "tenant=north"


def test_state_of_the_trace_alone_is_handed_on(seen: Observed) -> None:
    request = RequestContext(TRACE_ID, PARENT_ID, "mine", False, trace_state=TraceState([("vendor", "a")]))
    assert propagation_headers(request)["tracestate"] == "vendor=a"


def test_configured_propagators_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    from opentelemetry import propagate

    previous = propagate.get_global_textmap()
    monkeypatch.setenv("OTEL_PROPAGATORS", "baggage")
    try:
        with observed() as seen:
            enter_request(seen)
            assert dependency(seen).begin("GET", ROUTE, "/products/7", 0, get_current()).headers == {
                "x-request-id": "mine"
            }
    finally:
        propagate.set_global_textmap(previous)


def test_attempt_outside_of_a_request_begins_a_trace(seen: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    for sampler, flag in (("always_on", "3"), ("always_off", "2")):
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
        with observed() as other:
            attempt = dependency(other).begin("GET", ROUTE, "/products/7", 0, get_current())
            attempt.end(status=200)
            assert attempt.headers["traceparent"].endswith(f"-0{flag}")
            assert [span.parent for span in other.spans] == [None] * (flag == "3")


def test_suppressed_attempt_is_not_observed(seen: Observed, catalogue: DependencyTelemetry) -> None:
    enter_request(seen)
    otel_context.attach(suppressed())
    catalogue.begin("GET", ROUTE, "/products/7", 0, get_current()).end(status=200)
    assert seen.spans == []
    assert "http_client_request_duration_seconds_count" not in {
        one.name for family in seen.telemetry.metrics.registry.collect() for one in family.samples
    }


@pytest.mark.parametrize(
    ("error", "status", "error_type"),
    [
        (None, 404, "404"),
        (None, 503, "503"),
        (NotSentError("refused"), 0, "chassis.client.transport.NotSentError"),
        (ConnectionLostError("reset"), 200, "chassis.client.transport.ConnectionLostError"),
        (asyncio.CancelledError(), 0, "asyncio.exceptions.CancelledError"),
    ],
)
def test_attempt_that_fails_is_an_error(
    seen: Observed, catalogue: DependencyTelemetry, error: BaseException | None, status: int, error_type: str
) -> None:
    enter_request(seen)
    catalogue.begin("GET", ROUTE, "/products/7", 0, get_current()).end(status=status, error=error)
    (span,) = seen.spans
    assert (attributes_of(span)["error.type"], span.status.status_code) == (error_type, StatusCode.ERROR)
    labels = {"http_request_method": "GET", "server_address": "catalogue", "server_port": "80"}
    labels |= {"http_response_status_code": str(status or ""), "error_type": error_type}
    assert sample(seen, "http_client_request_duration_seconds_count", **labels) == 1


@pytest.mark.parametrize(
    ("scheme", "host", "port", "url"),
    [
        ("https", "catalogue", 443, "https://catalogue/x"),
        ("https", "catalogue", 80, "https://catalogue:80/x"),
        ("http", "::1", 8080, "http://[::1]:8080/x"),
    ],
)
def test_url_is_that_of_the_dependency(seen: Observed, scheme: str, host: str, port: int, url: str) -> None:
    enter_request(seen)
    dependency(seen, scheme=scheme, host=host, port=port).begin("GET", "", "/x", 0, get_current()).end(status=200)
    (span,) = seen.spans
    assert attributes_of(span)["url.full"] == url
    assert (span.name, "url.template" in attributes_of(span)) == ("GET", False)


def test_span_shows_no_secret_of_the_query(seen: Observed, catalogue: DependencyTelemetry) -> None:
    enter_request(seen)
    catalogue.begin("GET", ROUTE, "/products/7?access%5Ftoken=s3cr3t&sig=s3cr3t&page=2", 0, get_current()).end(
        status=200
    )
    (span,) = seen.spans
    assert attributes_of(span)["url.full"] == (
        "http://catalogue/products/7?access%5Ftoken=REDACTED&sig=REDACTED&page=2"
    )


def test_unknown_method_is_other(seen: Observed, catalogue: DependencyTelemetry) -> None:
    enter_request(seen)
    catalogue.begin("PROPFIND", ROUTE, "/products/7", 0, get_current()).end(status=200)
    catalogue.end_call("PROPFIND", ROUTE, 0.1, get_current(), status=200, error=None, attempts=1)
    (span,) = seen.spans
    assert (span.name, attributes_of(span)["http.request.method_original"]) == (f"HTTP {ROUTE}", "PROPFIND")
    assert calls(seen, method="_OTHER") == 1


def calls(seen: Observed, *, method: str = "GET", error_type: str = "") -> float | None:
    """The number of calls that were counted."""
    labels = {"dependency": "catalogue", "method": method, "error_type": error_type}
    return sample(seen, "dependency_call_duration_seconds_count", **labels)


def test_call_that_succeeds_is_counted_and_not_logged(seen: Observed, catalogue: DependencyTelemetry) -> None:
    catalogue.end_call("GET", ROUTE, 0.1, get_current(), status=200, error=None, attempts=1)
    assert calls(seen) == 1
    assert seen.lines == []


def test_call_of_a_sampled_request_is_an_exemplar(seen: Observed, catalogue: DependencyTelemetry) -> None:
    enter_request(seen)
    catalogue.end_call("GET", ROUTE, 0.1, get_current(), status=200, error=None, attempts=1)
    (family,) = catalogue.metrics.durations.collect()
    assert [one.exemplar.labels for one in family.samples if one.exemplar] == [{"trace_id": TRACE_ID}]


def test_call_that_fails_is_one_log_line(seen: Observed, catalogue: DependencyTelemetry) -> None:
    error = DependencyUnavailableError("catalogue", "could not be reached")
    error.__cause__ = NotSentError("connection refused")
    catalogue.end_call("GET", ROUTE, 0.12345, get_current(), status=0, error=error, attempts=3)
    (line,) = seen.lines
    kept = ("event", "level", "dependency", "method", "route", "error", "attempts", "seconds")
    assert {name: line[name] for name in kept} == {
        "event": "call failed",
        "level": "warning",
        "dependency": "catalogue",
        "method": "GET",
        "route": ROUTE,
        "error": "could not be reached: connection refused",
        "attempts": 3,
        "seconds": 0.123,
    }
    assert "status" not in line
    assert calls(seen, error_type="chassis.client.errors.DependencyUnavailableError") == 1


def test_call_with_an_unexpected_status_is_logged_with_it(seen: Observed, catalogue: DependencyTelemetry) -> None:
    error = UnexpectedStatusError("catalogue", Response("catalogue", 503, {}, b""))
    catalogue.end_call("GET", ROUTE, 0.1, get_current(), status=503, error=error, attempts=1)
    (line,) = seen.lines
    assert (line["status"], "error" in line) == (503, False)
    assert calls(seen, error_type="503") == 1


def test_log_line_of_a_response_shows_its_wrong_fields_without_values(
    seen: Observed, catalogue: DependencyTelemetry
) -> None:
    class Product(BaseModel):
        price: int

    response = Response("catalogue", 200, {}, b'{"price": "s3cr3t"}')
    with pytest.raises(BadResponseError) as raised:
        response.parse(Product)
    catalogue.end_call("GET", ROUTE, 0.1, get_current(), status=200, error=raised.value, attempts=1)
    (line,) = seen.lines
    assert line["error"] == "responded with a body that does not match its type: price: int_parsing"
    assert b"s3cr3t" not in seen.output


def test_call_that_is_cancelled_is_counted_and_not_logged(seen: Observed, catalogue: DependencyTelemetry) -> None:
    catalogue.end_call("GET", ROUTE, 0.1, get_current(), status=0, error=asyncio.CancelledError(), attempts=1)
    assert calls(seen, error_type="asyncio.exceptions.CancelledError") == 1
    assert seen.lines == []


def test_error_types_without_number_are_counted_together() -> None:
    durations = CallDurations()
    for number in range(1000):
        durations.observe(DependencyCallKey("catalogue", "GET", f"Error{number}"), 0.1, None)
    (family,) = durations.collect()
    counts = {one.labels["error_type"]: one.value for one in family.samples if one.name.endswith("_count")}
    assert (len(counts), counts["_OTHER"]) == (101, 900)


def test_decisions_of_the_client_are_counted(seen: Observed, catalogue: DependencyTelemetry) -> None:
    metrics = catalogue.metrics
    for kind in ("first", "first", "retry", "hedge"):
        metrics.attempt(kind)
    metrics.hedge_won()
    metrics.denied("budget")
    metrics.rejected("bulkhead")

    def count(name: str, **labels: str) -> float | None:
        return sample(seen, f"dependency_{name}_total", dependency="catalogue", **labels)

    assert [count("attempts", kind=kind) for kind in ("first", "retry", "hedge")] == [2, 1, 1]
    assert count("hedges_won") == 1
    assert (count("retries_denied", reason="budget"), count("retries_denied", reason="starved")) == (1, 0)
    assert (count("calls_rejected", reason="bulkhead"), count("calls_rejected", reason="breaker")) == (1, 0)


def test_state_of_the_client_is_read_when_the_metrics_are_exposed(
    seen: Observed, catalogue: DependencyTelemetry
) -> None:
    state: dict[str, Any] = {"calls": 3, "waiting": 2, "breaker": "closed", "available": 3, "ejected": 0}
    catalogue.metrics.read_calls(lambda: state["calls"], lambda: state["waiting"], lambda: 100)
    catalogue.metrics.read_breaker(lambda: state["breaker"])
    catalogue.metrics.read_replicas(lambda: state["available"], lambda: state["ejected"])

    def gauge(name: str, **labels: str) -> float | None:
        return sample(seen, f"dependency_{name}", dependency="catalogue", **labels)

    assert (gauge("calls_in_progress"), gauge("calls_waiting"), gauge("max_calls")) == (3, 2, 100)
    for number, name in enumerate(("closed", "half-open", "open")):
        state["breaker"] = name
        assert gauge("breaker_state") == number
    state |= {"available": 2, "ejected": 1}
    assert (gauge("replicas", state="available"), gauge("replicas", state="ejected")) == (2, 1)


def test_dependencies_share_their_metrics(seen: Observed) -> None:
    names = ("catalogue", "prices")
    for name in names:
        DependencyTelemetry(name, seen.telemetry, Origin.of(f"http://{name}")).metrics.attempt("first")
    counts = [sample(seen, "dependency_attempts_total", dependency=name, kind="first") for name in names]
    assert counts == [1, 1]


def test_changes_of_the_breaker_are_logged(seen: Observed, catalogue: DependencyTelemetry) -> None:
    for state in ("open", "half-open", "closed"):
        catalogue.breaker_changed(state)
    lines = seen.events("circuit breaker changed")
    assert [(line["dependency"], line["state"], line["level"]) for line in lines] == [
        ("catalogue", "open", "warning"),
        ("catalogue", "half-open", "info"),
        ("catalogue", "closed", "info"),
    ]
    assert sample(seen, "dependency_breaker_opened_total", dependency="catalogue") == 1


def test_ejections_are_logged_and_counted(seen: Observed, catalogue: DependencyTelemetry) -> None:
    catalogue.replica_ejected(Address("::1", 8080), "failed")
    catalogue.replica_admitted(Address("::1", 8080))
    ejected, admitted = seen.lines
    assert (ejected["event"], ejected["level"]) == ("replica ejected", "warning")
    assert (ejected["replica"], ejected["reason"]) == ("[::1]:8080", "failed")
    assert (admitted["event"], admitted["level"], admitted["replica"]) == ("replica admitted", "info", "[::1]:8080")
    assert sample(seen, "dependency_ejections_total", dependency="catalogue", reason="failed") == 1
