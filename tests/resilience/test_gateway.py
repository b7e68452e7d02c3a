"""A gateway and two backends of three replicas each, all generated: one replica fails in every way, and then all do.

The gateways reach the replicas directly, and through HAProxy. Their figures, and those of gateways without a policy,
behind HAProxy and Envoy, are measured by `make bench-gateway`; here it is only asserted what holds on a busy machine.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from collector import Collector, Received
from gateway import Gateway, System
from gateway_faults import LATENCY_SECONDS, OF_ALL, ONE_OF_THREE
from gateway_figures import Figures, measure
from gateway_projects import generate
from running import PATIENCE_SECONDS

pytestmark = pytest.mark.long

WAYS = ("client/direct", "client/haproxy")
RATE = 36.0  # of each gateway; an overloaded backend can do three quarters of one
MAX_REQUESTS = 6  # of a replica
FAULT_SECONDS = 3.0
PAUSE_SECONDS = 1.0
# By default, a client may use what it has saved in the last seconds.
RETRY_RATIO = 0.1
RATIO_SECONDS = 5.0
FLOOR_SECONDS = 10.0
CLIENT, SERVER = 3, 2  # OTLP's kinds of spans


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as one:
        yield one


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory, collector: Collector, client_python: Path) -> Iterator[System]:
    folder = tmp_path_factory.mktemp("system")
    projects = generate(folder / "services", client_python)
    # Only the traces that the test begins are sampled.
    spans = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_TRACES_SAMPLER": "parentbased_always_off"}
    with System(projects, folder, WAYS, RATE, max_requests=MAX_REQUESTS, **spans) as one:
        time.sleep(PAUSE_SECONDS)
        yield one


def test_request_is_one_trace_through_all_services(system: System, collector: Collector) -> None:
    for gateway in system.gateways:
        trace = ask_traced(gateway)

        spans = wait_for_spans(collector, trace, 5)

        by_id = {span.span_id: span for span in spans}
        (root,) = (span for span in spans if span.span.parent_span_id.hex() not in by_id)
        assert (service_of(root), root.span.kind) == ("client", SERVER)
        calls = [span for span in spans if span.span.kind == CLIENT]
        assert {by_id[span.span.parent_span_id.hex()].span_id for span in calls} == {root.span_id}
        served = {service_of(span): span for span in spans if span.span.kind == SERVER and span is not root}
        assert served.keys() == {"catalogue", "stock"}
        assert {span.span.parent_span_id.hex() for span in served.values()} <= {span.span_id for span in calls}


@pytest.mark.parametrize("fault", ONE_OF_THREE)
def test_one_faulty_replica_of_three_fails_no_request(system: System, fault: str) -> None:
    for way, found in measure(system, ONE_OF_THREE[fault](system.next_replica()), FAULT_SECONDS).items():
        print(way, found)
        assert found.requests >= RATE * FAULT_SECONDS
        if way == "client/direct":
            assert not found.failed
            assert found.p99_ms < 1e3 * LATENCY_SECONDS, "one of a hundred has waited for the faulty replica"
        else:  # HAProxy chooses the replicas, so that a retry may meet the faulty one again
            assert found.failed.total() < 0.03 * found.requests
        assert found.counted["retry"] + found.counted["hedge"] <= most_retries(found)


def test_faults_are_in_the_metrics(system: System) -> None:
    (direct,) = (gateway.service for gateway in system.gateways if gateway.way == "client/direct")

    assert direct.metric("dependency_ejections_total") > 0
    assert direct.metric("dependency_attempts_total", kind="retry") > 0
    assert direct.metric("dependency_attempts_total", kind="hedge") > 0
    assert direct.metric("dependency_breaker_opened_total") == 0


def test_overloaded_backend_is_told_to_the_callers_and_the_gateway_goes_on(system: System) -> None:
    for way, found in measure(system, OF_ALL["overload"](system), FAULT_SECONDS).items():
        print(way, found)
        assert found.failed.keys() == {"503"}, way
        assert found.without_retry_after == 0
        assert found.requests - found.failed.total() > 0.2 * found.requests
    assert_recovered(system)


def test_restart_of_everything_is_overcome(system: System) -> None:
    measure(system, OF_ALL["restart of everything"](system), 0)

    assert_recovered(system)


def assert_recovered(system: System) -> None:
    """Wait for a second in which no request fails."""
    until = time.monotonic() + PATIENCE_SECONDS
    while any(found.failed for found in measure(system, nullcontext(), 0).values()):
        assert time.monotonic() < until


def most_retries(found: Figures) -> float:
    """The retries and hedges that the budgets of both backends allow."""
    calls = found.counted["first"]
    return RETRY_RATIO * calls * (1 + RATIO_SECONDS / found.seconds) + 2 * (found.seconds + FLOOR_SECONDS)


def ask_traced(gateway: Gateway) -> str:
    """Make a request that is sampled; returns the id of its trace."""
    trace = secrets.token_hex(16)
    headers = {"traceparent": f"00-{trace}-{secrets.token_hex(8)}-01"}
    gateway.service.http.get("/offers/tea", headers=headers, timeout=PATIENCE_SECONDS).raise_for_status()
    return trace


def wait_for_spans(collector: Collector, trace: str, count: int) -> list[Received]:
    """Wait for so many spans of a trace."""
    until = time.monotonic() + PATIENCE_SECONDS
    while len(spans := [span for span in collector.now() if span.trace_id == trace]) < count:
        assert time.monotonic() < until, spans
        time.sleep(0.05)
    return spans


def service_of(span: Received) -> str:
    return str(span.resource["service.name"])
