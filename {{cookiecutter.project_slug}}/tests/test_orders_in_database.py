"""Tests of the example API with PostgreSQL. Copy this module for your own resource, then delete it."""

import asyncio

import httpx
from chassis.testing import Records

TEA = {"customer": "Ada", "lines": [{"sku": "tea", "quantity": 2}]}


async def test_order_can_be_read_changed_and_deleted(client: httpx.AsyncClient) -> None:
    created = await client.post("/orders", json=TEA)
    location = created.headers["location"]
    assert (await client.get(location)).json() == created.json()
    changed = await client.put(location, json=TEA | {"customer": "Grace"}, headers={"if-match": '"1"'})
    assert (changed.status_code, changed.json()["version"]) == (200, 2)
    assert (await client.get(location)).json() == changed.json()
    assert (await client.delete(location)).status_code == 204
    assert [(await client.request(method, location)).status_code for method in ("GET", "DELETE")] == [404, 404]


async def test_orders_are_listed_in_pages_newest_first(client: httpx.AsyncClient) -> None:
    first, second, third = [(await client.post("/orders", json=TEA)).json() for _ in range(3)]
    page = await client.get("/orders?limit=2")
    assert page.json() == [third, second]
    following = await client.get(str(page.url.join(page.links["next"]["url"])))
    assert following.json() == [first]


async def test_of_concurrent_changes_of_a_version_one_succeeds(client: httpx.AsyncClient) -> None:
    location = (await client.post("/orders", json=TEA)).headers["location"]
    changes = [client.put(location, json=TEA, headers={"if-match": '"1"'}) for _ in range(5)]
    statuses = sorted([response.status_code for response in await asyncio.gather(*changes)])
    assert statuses == [200, 412, 412, 412, 412]


async def test_retry_with_the_same_idempotency_key_creates_one_order(client: httpx.AsyncClient) -> None:
    key = {"idempotency-key": '"ab12"'}
    first, again = [await client.post("/orders", json=TEA, headers=key) for _ in range(2)]
    assert (again.status_code, again.json()) == (201, first.json())
    assert len((await client.get("/orders")).json()) == 1


async def test_unknown_product_creates_no_order(client: httpx.AsyncClient) -> None:
    response = await client.post("/orders", json=TEA | {"lines": [{"sku": "beer", "quantity": 1}]})
    assert response.status_code == 409
    assert (await client.get("/orders")).json() == []


async def test_queries_are_children_of_the_request(client: httpx.AsyncClient, records: Records) -> None:
    location = (await client.post("/orders", json=TEA)).headers["location"]
    await client.get(location)
    spans = [span for span in records.spans if span.name == "SELECT orders"]
    assert len(spans) == 1
    (request,) = [span for span in records.spans if span.name == "GET /orders/{order_id}"]
    assert request.context is not None
    assert spans[0].parent is not None
    assert spans[0].parent.span_id == request.context.span_id
