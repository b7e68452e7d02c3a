"""Tests of the events of orders, with a real NATS server. Copy this module for your own events, then delete it."""

import httpx
import nats
from chassis.testing import Records

from {{ cookiecutter.__package }}.orders.events import CREATED
from {{ cookiecutter.__package }}.settings import Settings

TEA = {"customer": "Ada", "lines": [{"sku": "tea", "quantity": 2}]}


async def test_receipt_is_sent_for_a_new_order(client: httpx.AsyncClient, records: Records) -> None:
    order = (await client.post("/orders", json=TEA)).json()
    (receipt,) = await records.wait_for("receipt sent")
    assert (receipt["order_id"], receipt["total_cents"]) == (order["id"], 900)


async def test_rejected_order_has_no_event(client: httpx.AsyncClient, records: Records) -> None:
    rejected = await client.post("/orders", json=TEA | {"lines": [{"sku": "beer", "quantity": 1}]})
    order = (await client.post("/orders", json=TEA)).json()
    receipts = await records.wait_for("receipt sent")
    assert rejected.status_code == 409
    assert [receipt["order_id"] for receipt in receipts] == [order["id"]]


async def test_receipt_has_the_request_id_of_the_order(client: httpx.AsyncClient, records: Records) -> None:
    await client.post("/orders", json=TEA, headers={"x-request-id": "request-1"})
    (receipt,) = await records.wait_for("receipt sent")
    assert receipt["request_id"] == "request-1"


async def test_invalid_event_goes_to_the_dead_letters(
    client: httpx.AsyncClient, records: Records, settings: Settings
) -> None:
    connection = await nats.connect(settings.nats_servers)
    await connection.jetstream().publish(CREATED, b"not JSON")
    await connection.close()
    (line,) = await records.wait_for("message is dead")
    assert line["reason"].startswith("invalid payload")
    assert (await client.get("/orders")).status_code == 200
