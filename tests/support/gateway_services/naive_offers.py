"""The gateway as it is written without a policy: one httpx client for each backend."""

import asyncio
from typing import Annotated, Any

import httpx
from pydantic import BaseModel

from chassis import App, Handler, Header, responds
from chassis.client import http_client


class Offer(BaseModel):
    """A product, and how much there is of it."""

    sku: str
    name: str
    cents: int
    count: int


class NewReservation(BaseModel):
    """What a customer reserves."""

    quantity: int


async def result(call: Any) -> Any:
    """The JSON of a call's response, if that is a success."""
    response: httpx.Response = await call
    return response.raise_for_status().json()


class Offers(Handler):
    """One offer, of a product and its level."""

    def __init__(self, catalogue: httpx.AsyncClient, stock: httpx.AsyncClient) -> None:
        self._catalogue = catalogue
        self._stock = stock

    async def get(self, sku: str) -> Offer:
        """Ask both backends at once."""
        product, level = await asyncio.gather(
            result(self._catalogue.get(f"/products/{sku}")), result(self._stock.get(f"/levels/{sku}"))
        )
        return Offer(sku=sku, name=product["name"], cents=product["cents"], count=level["count"])

    @responds(201)
    async def post(self, sku: str, body: NewReservation, idempotency_key: Annotated[str, Header()]) -> Offer:
        """Reserve a product that exists."""
        product = await result(self._catalogue.get(f"/products/{sku}"))
        reserved = await result(
            self._stock.post(
                "/reservations",
                json={"sku": sku, "quantity": body.quantity},
                headers={"idempotency-key": idempotency_key},
            )
        )
        return Offer(sku=sku, name=product["name"], cents=product["cents"], count=reserved["quantity"])


def add_offers(app: App, catalogue: str, stock: str) -> None:
    """Add the routes of the gateway. Both backends are base URLs."""
    clients = [app.add_resource(http_client(base_url=url, timeout=2.0)) for url in (catalogue, stock)]
    app.add_problems({httpx.TimeoutException: 504, httpx.HTTPError: 502})
    app.add_route("/offers/{sku}", Offers(*clients))
