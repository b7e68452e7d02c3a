"""Tests of the example API. Copy this module for your own resource, then delete it."""

from datetime import UTC, datetime
from uuid import uuid4

import httpx
import pytest
from chassis import App, Cursor
from chassis.testing import Records, serve

from {{ cookiecutter.__package }}.app import create_app
from {{ cookiecutter.__package }}.orders.catalogue import Catalogue
from {{ cookiecutter.__package }}.orders.handlers import OrderItem
from {{ cookiecutter.__package }}.orders.memory_store import MemoryOrderStore
from {{ cookiecutter.__package }}.orders.models import Order
from {{ cookiecutter.__package }}.orders.store import OrderChangedError, OrderNotFoundError
from {{ cookiecutter.__package }}.settings import Settings

TEA = {"customer": "Ada", "lines": [{"sku": "tea", "quantity": 2}]}


@pytest.fixture
def app(settings: Settings) -> App:
    """The service with a store for two orders. The fixtures `client` and `records` use this app."""
    return create_app(settings, store=MemoryOrderStore(max_orders=2))


async def test_new_order_is_priced_and_has_a_location(client: httpx.AsyncClient) -> None:
    response = await client.post("/orders", json=TEA)
    order = response.json()
    assert (response.status_code, order["total_cents"]) == (201, 900)
    assert response.headers["location"] == f"/orders/{order['id']}"


async def test_order_can_be_read_and_deleted_at_its_location(client: httpx.AsyncClient) -> None:
    created = await client.post("/orders", json=TEA)
    location = created.headers["location"]
    assert (await client.get(location)).json() == created.json()
    assert (await client.delete(location)).status_code == 204
    assert (await client.get(location)).status_code == 404


async def test_orders_are_listed_newest_first(client: httpx.AsyncClient) -> None:
    first, second = [(await client.post("/orders", json=TEA)).json() for _ in range(2)]
    assert (await client.get("/orders")).json() == [second, first]
    assert (await client.get("/orders?limit=1")).json() == [second]


async def test_list_of_orders_links_to_the_next_page(client: httpx.AsyncClient) -> None:
    first, second = [(await client.post("/orders", json=TEA)).json() for _ in range(2)]
    page = await client.get("/orders?limit=1")
    assert page.json() == [second]
    following = await client.get(str(page.url.join(page.links["next"]["url"])))
    assert following.json() == [first]
    assert "next" not in following.links


async def test_cursor_with_a_time_without_an_offset_is_rejected(client: httpx.AsyncClient) -> None:
    await client.post("/orders", json=TEA)
    cursor = str(Cursor(["2026-01-01T00:00:00", uuid4()]))
    assert (await client.get("/orders", params={"cursor": cursor})).status_code == 422


async def test_unchanged_order_is_304(client: httpx.AsyncClient) -> None:
    location = (await client.post("/orders", json=TEA)).headers["location"]
    etag = (await client.get(location)).headers["etag"]
    assert (await client.get(location, headers={"if-none-match": etag})).status_code == 304


async def test_retry_with_the_same_idempotency_key_creates_one_order(client: httpx.AsyncClient) -> None:
    key = {"idempotency-key": '"ab12"'}
    first, again = [await client.post("/orders", json=TEA, headers=key) for _ in range(2)]
    assert (again.status_code, again.json()) == (201, first.json())
    assert len((await client.get("/orders")).json()) == 1


async def test_unknown_order_is_404(client: httpx.AsyncClient) -> None:
    order_id = uuid4()
    for method in ("GET", "DELETE"):
        response = await client.request(method, f"/orders/{order_id}")
        assert response.status_code == 404
        assert response.json()["detail"] == f"There is no order with the id {order_id}."


async def test_unknown_product_is_409(client: httpx.AsyncClient) -> None:
    lines = [{"sku": "tea", "quantity": 1}, {"sku": "beer", "quantity": 1}]
    response = await client.post("/orders", json={"customer": "Ada", "lines": lines})
    assert response.status_code == 409
    assert response.json()["detail"] == "There is no 'beer' in the catalogue."


async def test_order_without_lines_is_422(client: httpx.AsyncClient) -> None:
    response = await client.post("/orders", json={"customer": "Ada", "lines": []})
    assert response.status_code == 422
    assert response.json()["errors"][0]["pointer"] == "#/lines"


async def test_full_store_rejects_new_orders_with_507_until_one_is_deleted(client: httpx.AsyncClient) -> None:
    responses = [await client.post("/orders", json=TEA) for _ in range(3)]
    assert [response.status_code for response in responses] == [201, 201, 507]
    assert (await client.delete(responses[0].headers["location"])).status_code == 204
    assert (await client.post("/orders", json=TEA)).status_code == 201


async def test_changed_order_has_a_new_version(client: httpx.AsyncClient) -> None:
    location = (await client.post("/orders", json=TEA)).headers["location"]
    etag = (await client.get(location)).headers["etag"]
    changed = await client.put(location, json=TEA | {"customer": "Grace"}, headers={"if-match": etag})
    assert (changed.status_code, changed.headers["etag"]) == (200, '"2"')
    assert (await client.get(location)).json() == changed.json()
    assert changed.json()["customer"] == "Grace"


async def test_change_of_a_version_that_is_not_current_is_412(client: httpx.AsyncClient) -> None:
    location = (await client.post("/orders", json=TEA)).headers["location"]
    responses = [await client.put(location, json=TEA, headers={"if-match": '"1"'}) for _ in range(2)]
    assert [response.status_code for response in responses] == [200, 412]
    assert (await client.put(location, json=TEA)).status_code == 428


async def test_service_checks_the_catalogue(client: httpx.AsyncClient) -> None:
    assert (await client.get("/readyz")).json()["checks"]["catalogue"]["status"] == "pass"


async def test_handler_can_be_called_without_a_request() -> None:
    with pytest.raises(OrderNotFoundError):
        await OrderItem(Catalogue()).delete(uuid4(), MemoryOrderStore(max_orders=2))


async def test_store_rejects_a_change_of_a_version_that_is_not_current() -> None:
    store = MemoryOrderStore(max_orders=2)
    order = Order.model_validate(TEA | {"id": uuid4(), "total_cents": 900, "created": datetime.now(UTC)})
    await store.add(order)
    with pytest.raises(OrderChangedError):
        await store.replace(order)


async def test_new_order_is_logged_counted_and_traced(client: httpx.AsyncClient, records: Records) -> None:
    await client.post("/orders", json=TEA)
    (access_line,) = await records.access_lines()
    assert (access_line["route"], access_line["status"]) == ("/orders", 201)
    (confirmed,) = await records.wait_for("order confirmed")  # by a background task
    assert confirmed["total_cents"] == 900
    assert records.metric("http_server_request_duration_seconds_count", http_route="/orders") == 1
    assert "POST /orders" in [span.name for span in records.spans]


async def test_order_is_created_over_a_real_connection(app: App) -> None:
    async with serve(app) as client:
        assert (await client.post("/orders", json=TEA)).status_code == 201
