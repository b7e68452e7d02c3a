"""The metrics, and how a scraper reads them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from prometheus_client import Counter
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as prometheus

from chassis import Handler, Problem, Route
from chassis.telemetry.metrics import MAX_ERROR_TYPES, RequestMetrics

from .support.service import SAMPLED, TRACE_ID, UNSAMPLED, Service, serve

OPENMETRICS = {"accept": "application/openmetrics-text; version=1.0.0"}
COUNT = "http_server_request_duration_seconds_count"


class Item(Handler):
    """An item."""

    def __init__(self) -> None:
        self.release = asyncio.Event()

    async def get(self, item_id: int) -> str:
        return "x" * item_id

    async def post(self, item_id: int, body: str) -> None: ...

    async def put(self, item_id: int) -> None:
        await self.release.wait()

    async def delete(self, item_id: int) -> None:
        if item_id == 503:
            raise Problem(503, "Not now.")
        raise KeyError(item_id)


item = Item()
ROUTES = [Route(f"/r{number}/" + "{item_id}", item) for number in range(30)]


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Service]:
    async with serve(*ROUTES) as service:
        yield service


@pytest.fixture
async def service(running: Service) -> Service:
    item.release = asyncio.Event()
    return await running.fresh()


@pytest.fixture
def route() -> str:
    """A route that no other test asks."""
    return ROUTES.pop().path


def item_at(route: str, item_id: object) -> str:
    """The path of an item."""
    return route.format(item_id=item_id)


async def exemplars(service: Service, route: str) -> list[dict[str, str]]:
    """The exemplars of a route."""
    text = (await service.client.get("/metrics", headers=OPENMETRICS)).text
    return [
        sample.exemplar.labels
        for family in openmetrics(text)  # type: ignore[no-untyped-call]
        for sample in family.samples
        if sample.exemplar is not None and sample.labels.get("http_route") == route
    ]


async def test_requests_are_counted_by_method_route_and_status(service: Service, route: str) -> None:
    for item_id in (1, 2, "x"):
        await service.client.get(item_at(route, item_id))
    labels = {"http_request_method": "GET", "http_route": route}
    assert await service.sample(COUNT, **labels, http_response_status_code="200") == 2
    assert await service.sample(COUNT, **labels, http_response_status_code="422") == 1


async def test_unmatched_paths_fold_into_one(service: Service) -> None:
    before = await service.sample(COUNT, http_route="unmatched")
    for number in range(3):
        await service.client.get(f"/nowhere/{number}")
    assert await service.sample(COUNT, http_route="unmatched") == before + 3


async def test_unknown_methods_fold_into_one(service: Service, route: str) -> None:
    for method in ("PROPFIND", "MKCOL", "PURGE"):
        await service.client.request(method, item_at(route, 1))
    assert await service.sample(COUNT, http_route=route, http_request_method="_OTHER") == 3


async def test_body_sizes_are_observed(service: Service, route: str) -> None:
    await service.client.get(item_at(route, 500))
    await service.client.post(item_at(route, 1), json="x" * 200)
    size = "http_server_request_body_size_bytes"
    assert await service.sample("http_server_response_body_size_bytes_sum", http_route=route) == 502
    assert await service.sample(f"{size}_sum", http_route=route) == 202
    assert await service.sample(f"{size}_bucket", le="100.0", http_route=route) == 1
    assert await service.sample(f"{size}_bucket", le="1000.0", http_route=route) == 2


async def test_active_requests_rise_and_fall(service: Service, route: str) -> None:
    asked = asyncio.create_task(service.client.put(item_at(route, 1)))
    await service.under_way(1)
    assert await service.sample("http_server_active_requests", http_request_method="PUT") == 1
    item.release.set()
    await asked
    await service.access_line()
    assert await service.sample("http_server_active_requests", http_request_method="PUT") == 0


@pytest.mark.parametrize("path", ["/r0/x", "/nowhere"])
async def test_active_requests_fall_after_a_rejection(service: Service, path: str) -> None:
    await service.client.put(path)
    await service.access_line()
    assert await service.sample("http_server_active_requests", http_request_method="PUT") == 0


async def test_sampled_request_is_an_exemplar(service: Service, route: str) -> None:
    await service.client.get(item_at(route, 1), headers=SAMPLED)
    assert await exemplars(service, route) == [{"trace_id": TRACE_ID}]


async def test_unsampled_request_is_no_exemplar(service: Service, route: str) -> None:
    await service.client.get(item_at(route, 1), headers=UNSAMPLED)
    assert await exemplars(service, route) == []


async def test_format_is_what_the_scraper_takes(service: Service) -> None:
    plain = await service.client.get("/metrics", headers={"accept": "text/plain"})
    open_ = await service.client.get("/metrics", headers=OPENMETRICS)
    assert plain.headers["content-type"].startswith("text/plain; version=")
    assert open_.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert open_.text.endswith("# EOF\n")


async def test_buckets_are_cumulative(service: Service, route: str) -> None:
    await service.client.get(item_at(route, 1))
    text = (await service.client.get("/metrics")).text
    family = next(one for one in prometheus(text) if one.name == "http_server_request_duration_seconds")
    counts = [one.value for one in family.samples if one.labels.get("http_route") == route and "le" in one.labels]
    assert counts == sorted(counts)
    assert counts[-1] == 1


async def test_process_runtime_and_build_are_there(service: Service) -> None:
    text = (await service.client.get("/metrics")).text
    names = {family.name for family in prometheus(text)}
    assert {"process_cpu_seconds", "python_gc_collections", "python_info", "event_loop_lag_seconds"} <= names
    assert await service.sample("build_info", service="test-service", version="1.2.3", commit="c0ffee") == 1


async def test_lag_of_the_event_loop_is_observed(service: Service) -> None:
    async with asyncio.timeout(5):
        while not await service.sample("event_loop_lag_seconds_count"):
            await asyncio.sleep(0.02)


async def test_metrics_of_the_service_stand_beside_them(service: Service) -> None:
    counter = Counter("orders", "Orders.", registry=service.app.telemetry.metrics.registry)
    counter.inc(3)
    assert await service.sample("orders_total") == 3


async def test_scheme_is_a_label(service: Service, route: str) -> None:
    await service.client.get(item_at(route, 1))
    assert await service.sample(COUNT, http_route=route, url_scheme="http") == 1
    assert await service.sample("http_server_response_body_size_bytes_count", http_route=route, url_scheme="http") == 1
    assert 'http_server_active_requests{http_request_method="GET",url_scheme="http"}' in (
        (await service.client.get("/metrics")).text
    )


async def test_error_type_is_empty_for_a_success_and_a_client_error(service: Service, route: str) -> None:
    for item_id in (1, "x"):
        await service.client.get(item_at(route, item_id))
    assert await service.sample(COUNT, http_route=route, error_type="") == 2


async def test_error_type_of_a_failure_is_its_exception_or_its_status(service: Service, route: str) -> None:
    await service.client.delete(item_at(route, 500))
    await service.client.delete(item_at(route, 503))
    assert await service.sample(COUNT, http_route=route, error_type="KeyError") == 1
    assert await service.sample(COUNT, http_route=route, error_type="503", http_response_status_code="503") == 1


def test_number_of_error_types_is_bounded() -> None:
    metrics = RequestMetrics()
    for number in [*range(3 * MAX_ERROR_TYPES), 0, 1]:
        error = type(f"Error{number}", (Exception,), {})  # another class of the same name for the last two
        metrics.observe(("GET", "/", 500, "http", error), 0.1, 0, 0, None, 0.0)
    duration = next(iter(metrics.collect()))
    samples = [sample for sample in duration.samples if "_count" in sample.name]
    counts = {sample.labels["error_type"]: sample.value for sample in samples}
    assert len(samples) == len(counts) == MAX_ERROR_TYPES + 1
    assert counts[f"{__name__}.Error0"] == 2
    assert counts["_OTHER"] == 2 * MAX_ERROR_TYPES
