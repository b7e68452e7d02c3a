"""Calls by the policy of a client, on a network that the test scripts."""

import asyncio
import time
from datetime import UTC, datetime
from math import inf
from uuid import UUID

import pytest
from pydantic import BaseModel

from chassis.client import BadResponseError, DependencyError, starvation
from chassis.client.request_target import PathValueError, make_target
from chassis.client.transport import ConnectionLostError, NotSentError, OutboundRequest

from .support.network import Network, Replica, Reply, after, client_of, fails, hangs, in_turn, responds

REFUSED = fails(NotSentError("connection refused"))
RESET = fails(ConnectionLostError("connection reset"))


@pytest.fixture(autouse=True)
def _on_time(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no starvation, except for the tests of it."""
    if "starve" not in request.node.name:
        monkeypatch.setattr(starvation, "LATE_SECONDS", inf)


class Product(BaseModel):
    """What the catalogue has."""

    sku: str
    price: int


async def test_result_is_the_validated_body() -> None:
    network = Network(a=responds(body=b'{"sku": "tea", "price": 3}'))
    async with client_of(network) as catalogue:
        product = await catalogue.get("/products/{sku}", path={"sku": "tea"}, returns=Product)
    assert product == Product(sku="tea", price=3)
    assert network.requests[0].target == "/v1/products/tea"


async def test_body_of_another_shape_is_a_bad_response() -> None:
    async with client_of(Network(a=responds(body=b'{"sku": "tea"}'))) as catalogue:
        with pytest.raises(BadResponseError, match="does not match its type"):
            await catalogue.get("/products/tea", returns=Product)


async def test_response_is_returned_without_a_type() -> None:
    async with client_of(Network(a=responds(404, b"gone", {"X-Kind": "none"}))) as catalogue:
        response = await catalogue.get("/products/tea", expect={404})
    assert (response.status, response.text, response.headers["x-kind"]) == (404, "gone", "none")


@pytest.mark.parametrize("value", ["a/b", "a?b=c", "a#b", "a b", "ä", "a%2Fb", "..;", "{x}"])
async def test_value_stays_in_its_segment_of_the_path(value: str) -> None:
    target = make_target("", "/products/{sku}/stock", {"sku": value}, None)
    assert target.count("/") == 3
    assert not set(target) & set("?# {}")


@pytest.mark.parametrize("value", ["", ".", ".."])
async def test_value_that_would_change_the_path_is_rejected(value: str) -> None:
    with pytest.raises(PathValueError, match="cannot be a part of a path"):
        make_target("", "/products/{sku}", {"sku": value}, None)


def test_query_has_lists_and_leaves_none_out() -> None:
    params = {
        "tag": ["a", "b c"],
        "none": None,
        "open": True,
        "at": datetime(2026, 1, 2, tzinfo=UTC),
        "id": UUID(int=1),
    }
    target = make_target("", "/products", None, params)
    assert target == (
        "/products?tag=a&tag=b%20c&open=true&at=2026-01-02T00%3A00%3A00Z&id=00000000-0000-0000-0000-000000000001"
    )
    assert make_target("", "/products", None, {"none": None}) == "/products"


async def test_json_and_headers_are_sent() -> None:
    network = Network(a=responds(201))
    async with client_of(network) as catalogue:
        await catalogue.post("/products", json=Product(sku="tea", price=3), headers={"X-Tenant": "north"})
    request = network.requests[0]
    assert request.body == b'{"sku":"tea","price":3}'
    assert request.headers["content-type"] == "application/json"
    assert request.headers["x-tenant"] == "north"
    assert request.headers["user-agent"].startswith("shop/")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("fault", [REFUSED, RESET, responds(500), responds(502), responds(504)])
async def test_idempotent_request_is_sent_to_another_replica(method: str, fault: Replica) -> None:
    network = Network(a=fault, b=responds())
    async with client_of(network) as catalogue:
        while not network.asked["a"]:
            assert (await catalogue.request(method, "/products/tea")).status == 200
    assert network.asked["a"] == 1


async def test_request_that_was_not_sent_is_repeated_whatever_its_method() -> None:
    network = Network(a=REFUSED, b=responds())
    async with client_of(network) as catalogue:
        while not network.asked["a"]:
            assert (await catalogue.post("/orders", json={})).status == 200


@pytest.mark.parametrize("fault", [RESET, responds(500), responds(503)])
async def test_request_that_may_have_been_processed_is_not_repeated(fault: Replica) -> None:
    network = Network(a=fault, b=fault)
    async with client_of(network) as catalogue:
        with pytest.raises(DependencyError):
            await catalogue.post("/orders", json={})
    assert network.asked.total() == 1


async def test_request_with_an_idempotency_key_is_repeated() -> None:
    network = Network(a=RESET, b=responds(201))
    async with client_of(network) as catalogue:
        while not network.asked["a"]:
            assert (await catalogue.post("/orders", json={}, idempotency_key="k1")).status == 201
    assert {request.headers["idempotency-key"] for request in network.requests} == {"k1"}


async def test_request_is_repeated_after_a_rejection_with_retry_after() -> None:
    network = Network(a=responds(503, headers={"retry-after": "1"}), b=responds())
    async with client_of(network) as catalogue:
        while not network.asked["a"]:
            assert (await catalogue.post("/orders", json={})).status == 200


async def test_failure_that_was_repeated_below_is_not_repeated() -> None:
    network = Network(a=responds(502, headers={"x-retries-exhausted": "1"}), b=responds())
    network.replicas["b"] = network.replicas["a"]
    async with client_of(network) as catalogue:
        with pytest.raises(DependencyError):
            await catalogue.get("/products")
    assert network.asked.total() == 1


async def test_retry_to_another_replica_is_sent_at_once() -> None:
    network = Network(a=responds(500), b=RESET, c=responds())
    async with client_of(network, backoff_seconds=10.0, timeout_seconds=0.5) as catalogue:
        while not (network.asked["a"] and network.asked["b"]):
            assert (await catalogue.get("/products")).status == 200


async def test_retry_to_the_same_replica_waits_for_a_random_time() -> None:
    network = Network(a=responds(500))
    async with client_of(network, backoff_seconds=10.0, timeout_seconds=0.5) as catalogue:
        for _ in range(10):
            with pytest.raises(DependencyError):
                await catalogue.get("/products")
    assert network.asked["a"] < 20


async def test_only_available_replica_is_not_asked_again_before_its_retry_after() -> None:
    network = Network(a=responds(), b=REFUSED)
    async with client_of(network) as catalogue:
        while not network.asked["b"]:
            await catalogue.get("/products")
        network.replicas["a"] = responds(503, headers={"retry-after": "5"})
        before = network.asked["a"]
        with pytest.raises(DependencyError, match="responded with 503"):
            await catalogue.get("/products")
    assert network.asked["a"] == before + 1


async def test_retries_are_bounded_by_their_budget() -> None:
    network = Network(a=responds(500), b=responds(500))
    async with client_of(network, breaker_ratio=1.0, retry_ratio=0.0) as catalogue:
        for _ in range(200):
            with pytest.raises(DependencyError):
                await catalogue.get("/products")
    assert network.asked.total() < 240


async def test_slow_read_is_sent_to_another_replica() -> None:
    network = Network(a=responds(), b=responds())
    async with client_of(network, hedge=True, timeout_seconds=30.0) as catalogue:
        for _ in range(200):
            await catalogue.get("/products")
        network.replicas |= {"a": hangs, "b": after(0.02, responds())}
        async with asyncio.timeout(20):
            while not network.cancelled["a"]:
                assert (await catalogue.get("/products")).status == 200


async def test_call_with_one_attempt_has_no_hedge() -> None:
    network = Network(a=responds(), b=responds())
    async with client_of(network, hedge=True, max_attempts=1) as catalogue:
        for _ in range(200):
            await catalogue.get("/products")
        network.replicas |= dict.fromkeys("ab", after(0.05, responds()))
        for _ in range(10):
            await catalogue.get("/products")
    assert network.asked.total() == 210


async def test_failed_attempt_waits_for_its_hedge() -> None:
    async def fail_late(_: OutboundRequest) -> Reply:
        await asyncio.sleep(0.1)
        raise ConnectionLostError("connection reset")

    async def respond_later(_: OutboundRequest) -> Reply:
        await asyncio.sleep(0.2)
        return Reply(body=b"late")

    network = Network(a=responds(), b=responds())
    async with client_of(network, hedge=True, max_attempts=2) as catalogue:
        for _ in range(200):
            await catalogue.get("/products")
        network.replicas.update(a=fail_late, b=respond_later)
        before = network.asked.total()
        response = await catalogue.get("/products")
    assert response.text == "late"
    assert network.asked.total() - before <= 2


async def test_cancelled_call_ends_its_hedge() -> None:
    network = Network(a=responds(), b=responds())
    async with client_of(network, hedge=True, timeout_seconds=30.0) as catalogue:
        for _ in range(200):
            await catalogue.get("/products")
        network.replicas.update(a=hangs, b=hangs)
        before = network.asked.total()
        call = asyncio.create_task(catalogue.get("/products"))
        async with asyncio.timeout(5):
            while network.asked.total() < before + 2:
                await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        await asyncio.sleep(0)
    assert network.cancelled.total() == 2


async def test_hedges_leave_half_of_the_budget_to_retries() -> None:
    network = Network(a=responds(), b=responds())
    async with client_of(network, hedge=True) as catalogue:
        for _ in range(200):
            await catalogue.get("/products")
        network.replicas |= dict.fromkeys("ab", after(0.02, responds()))
        async with asyncio.TaskGroup() as group:
            for _ in range(80):
                group.create_task(catalogue.get("/products"))
        hedges = network.asked.total() - 280
        for _ in range(10):
            network.replicas |= dict.fromkeys("ab", in_turn(RESET, responds()))
            await catalogue.post("/orders", json={}, idempotency_key="k1")
    assert 5 <= hedges <= 21  # 5 % of the calls, and those of a quiet service


async def test_slow_write_is_not_sent_twice() -> None:
    network = Network(a=hangs, b=hangs)
    async with client_of(network, hedge=True, timeout_seconds=0.2) as catalogue:
        with pytest.raises(DependencyError):
            await catalogue.post("/orders", json={})
    assert network.asked.total() == 1


async def test_call_ends_in_its_total_time() -> None:
    network = Network(a=hangs, b=hangs)
    loop = asyncio.get_running_loop()
    async with client_of(network, timeout_seconds=0.3) as catalogue:
        began = loop.time()
        with pytest.raises(DependencyError, match="did not respond in time") as raised:
            await catalogue.get("/products")
    assert 0.29 < loop.time() - began < 2
    assert raised.value.status == 504
    assert network.asked.total() == 2


async def test_attempt_hands_its_time_on() -> None:
    network = Network(a=hangs, b=hangs)
    async with client_of(network, timeout_seconds=0.3, attempt_timeout_seconds=0.2) as catalogue:
        with pytest.raises(DependencyError):
            await catalogue.get("/products")
    first, second = (int(request.headers["x-request-timeout-ms"]) for request in network.requests)
    assert first == 200
    assert 0 < second <= 100


@pytest.mark.parametrize("busy_seconds", [0.05, 1.0])
async def test_timeout_that_a_starved_service_sees_is_repeated_when_it_has_recovered(busy_seconds: float) -> None:
    network = Network(a=hangs, b=hangs)
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + 0.2 + busy_seconds

    def starve() -> None:
        time.sleep(0.06)
        if loop.time() < ends_at:
            loop.call_soon(starve)

    async with client_of(network, timeout_seconds=1.2, attempt_timeout_seconds=0.22) as catalogue:
        loop.call_later(0.2, starve)
        with pytest.raises(DependencyError):
            await catalogue.get("/products")
    assert (network.asked.total() > 1) is (busy_seconds < 0.25)


async def test_further_calls_are_rejected() -> None:
    network = Network(a=hangs)
    async with client_of(network, max_in_progress=1, max_waiting=0, timeout_seconds=30.0) as catalogue:
        first = asyncio.create_task(catalogue.get("/products"))
        while not network.requests:
            await asyncio.sleep(0)
        with pytest.raises(DependencyError, match="too many calls in progress") as raised:
            await catalogue.get("/products")
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        network.replicas["a"] = responds()
        assert (await catalogue.get("/products")).status == 200
    assert (raised.value.status, raised.value.retry_after) == (503, 1)


async def test_circuit_breaker_opens_and_closes() -> None:
    network = Network(a=responds(500))
    async with client_of(network, breaker_seconds=0.1, max_attempts=1) as catalogue:
        for _ in range(50):
            with pytest.raises(DependencyError):
                await catalogue.get("/products")
        assert network.asked.total() < 50
        with pytest.raises(DependencyError, match="circuit breaker"):
            catalogue.check()
        network.replicas["a"] = responds()
        async with asyncio.timeout(5):
            while True:
                try:
                    await catalogue.get("/products")
                    break
                except DependencyError:
                    await asyncio.sleep(0.01)
        for _ in range(20):
            await catalogue.get("/products")
        catalogue.check()


async def test_backpressure_does_not_open_the_circuit_breaker() -> None:
    network = Network(a=responds(503, headers={"retry-after": "1"}))
    async with client_of(network, max_attempts=1) as catalogue:
        for _ in range(60):
            with pytest.raises(DependencyError, match="responded with 503"):
                await catalogue.get("/products")
        catalogue.check()
    assert network.asked.total() == 60


async def test_stream_is_read_in_parts_and_closed() -> None:
    network = Network(a=responds(body=b"12345"))
    async with client_of(network) as catalogue, catalogue.stream("GET", "/export") as response:
        assert response.status == 200
        assert [chunk async for chunk in response.chunks()] == [b"12345"]


async def test_stream_of_another_status_is_a_failure() -> None:
    async with client_of(Network(a=responds(404, b"none"))) as catalogue:
        with pytest.raises(DependencyError, match="responded with 404"):
            async with catalogue.stream("GET", "/export"):
                pass


async def test_stream_whose_retry_is_not_admitted_is_not_read_after_its_end() -> None:
    class OpenReply(Reply):
        async def read(self, limit: int) -> bytes:
            assert not self.closed
            return await super().read(limit)

    async def fail(_: OutboundRequest) -> Reply:
        return OpenReply(500)

    network = Network(a=fail, b=fail)
    errors = set[str]()
    async with client_of(network) as catalogue:
        for _ in range(30):
            with pytest.raises(DependencyError) as raised:
                async with catalogue.stream("GET", "/export"):
                    pass
            errors.add(raised.value.reason)
    assert errors == {"responded with 500", "is not called now, because its circuit breaker is open"}


async def test_body_that_is_too_large_is_a_bad_response() -> None:
    async with client_of(Network(a=responds(body=b"x" * 11)), max_response_bytes=10) as catalogue:
        with pytest.raises(BadResponseError, match="too large"):
            await catalogue.get("/products")
