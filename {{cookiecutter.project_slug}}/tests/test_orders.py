"""Orders: the example. Copy this module beside a resource of your own, then delete it."""

from collections.abc import AsyncIterator
from uuid import uuid4

import httpx
import pytest

from {{ cookiecutter.__package }}.app import create_app
from {{ cookiecutter.__package }}.chassis import Server
from {{ cookiecutter.__package }}.settings import Settings

TEA = {"customer": "Ada", "lines": [{"sku": "tea", "quantity": 2}]}


@pytest.fixture
async def client() -> AsyncIterator[httpx.AsyncClient]:
    """A client of the whole service, which runs on a free port and holds two orders at most."""
    app = create_app(Settings(_env_file=None, max_orders=2, readiness_cache_seconds=0))  # type: ignore[call-arg]
    async with (
        Server(app, port=0) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client,
    ):
        yield client


async def test_new_order_is_priced_and_has_a_location(client: httpx.AsyncClient) -> None:
    answer = await client.post("/orders", json=TEA)
    order = answer.json()
    assert (answer.status_code, order["total_cents"]) == (201, 900)
    assert answer.headers["location"] == f"/orders/{order['id']}"


async def test_order_is_read_and_deleted_at_its_location(client: httpx.AsyncClient) -> None:
    created = await client.post("/orders", json=TEA)
    location = created.headers["location"]
    assert (await client.get(location)).json() == created.json()
    assert (await client.delete(location)).status_code == 204
    assert (await client.get(location)).status_code == 404


async def test_orders_are_listed_newest_first(client: httpx.AsyncClient) -> None:
    one, other = [(await client.post("/orders", json=TEA)).json() for _ in range(2)]
    assert (await client.get("/orders")).json() == [other, one]
    assert (await client.get("/orders?limit=1")).json() == [other]


async def test_unknown_order_is_404(client: httpx.AsyncClient) -> None:
    for method in ("GET", "DELETE"):
        answer = await client.request(method, f"/orders/{uuid4()}")
        assert (answer.status_code, answer.json()["detail"]) == (404, "No order has this id.")


async def test_order_of_something_unknown_is_409(client: httpx.AsyncClient) -> None:
    lines = [{"sku": "tea", "quantity": 1}, {"sku": "beer", "quantity": 1}]
    answer = await client.post("/orders", json={"customer": "Ada", "lines": lines})
    assert (answer.status_code, answer.json()["detail"]) == (409, "There is no 'beer' in the catalogue.")


async def test_order_without_lines_is_422(client: httpx.AsyncClient) -> None:
    answer = await client.post("/orders", json={"customer": "Ada", "lines": []})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == "#/lines"


async def test_full_store_is_507_and_not_ready(client: httpx.AsyncClient) -> None:
    assert (await client.get("/readyz")).status_code == 200
    statuses = [(await client.post("/orders", json=TEA)).status_code for _ in range(3)]
    assert statuses == [201, 201, 507]
    assert (await client.get("/readyz")).status_code == 503
