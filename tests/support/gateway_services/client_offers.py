"""The gateway with the chassis's clients."""

import asyncio
from typing import Annotated

from pydantic import BaseModel

from chassis import App, Handler, Header, responds
from chassis.client import Client, ClientSettings


class Product(BaseModel):
    """A product, as the catalogue has it."""

    sku: str
    name: str
    cents: int


class Level(BaseModel):
    """How much there is of a product, as the stock has it."""

    count: int


class Reservation(BaseModel):
    """What a customer reserves."""

    quantity: int


class Offer(Product):
    """A product, and how much there is of it."""

    count: int


class Offers(Handler):
    """One offer, of a product and its level."""

    def __init__(self, catalogue: Client, stock: Client) -> None:
        self._catalogue = catalogue
        self._stock = stock

    async def get(self, sku: str) -> Offer:
        """Ask both backends at once."""
        product, level = await asyncio.gather(
            self._catalogue.get("/products/{sku}", path={"sku": sku}, returns=Product),
            self._stock.get("/levels/{sku}", path={"sku": sku}, returns=Level),
        )
        return Offer(**product.model_dump(), count=level.count)

    @responds(201)
    async def post(self, sku: str, body: Reservation, idempotency_key: Annotated[str, Header()]) -> Offer:
        """Reserve a product that exists."""
        product = await self._catalogue.get("/products/{sku}", path={"sku": sku}, returns=Product)
        reserved = await self._stock.post(
            "/reservations",
            json={"sku": sku, "quantity": body.quantity},
            idempotency_key=idempotency_key,
            returns=Reservation,
        )
        return Offer(**product.model_dump(), count=reserved.quantity)


def add_offers(app: App, catalogue: ClientSettings, stock: ClientSettings) -> None:
    """Add the routes of the gateway."""
    app.add_route("/offers/{sku}", Offers(app.client("catalogue", catalogue), app.client("stock", stock)))
