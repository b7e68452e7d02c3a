"""Tests of access: who may read orders, and who may write them."""

import httpx
from chassis.auth.issuer import Issuer

ORDER = {"customer": "Ada", "lines": [{"sku": "tea", "quantity": 2}]}


async def test_request_without_a_token_is_rejected(client: httpx.AsyncClient) -> None:
    del client.headers["authorization"]
    response = await client.get("/orders")
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer ")


async def test_reader_may_not_write(issuer: Issuer, client: httpx.AsyncClient) -> None:
    reader = issuer.headers("ada", scopes=["orders:read"])
    assert (await client.get("/orders", headers=reader)).status_code == 200
    response = await client.post("/orders", headers=reader, json=ORDER)
    assert response.status_code == 403
    assert response.json()["missing_scopes"] == ["orders:write"]


async def test_writer_may_write(issuer: Issuer, client: httpx.AsyncClient) -> None:
    writer = issuer.headers("ada", scopes=["orders:write"])
    assert (await client.post("/orders", headers=writer, json=ORDER)).status_code == 201
