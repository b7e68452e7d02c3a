"""The stock: a read of a level, and a write that may be repeated with its key."""

import asyncio

from pydantic import BaseModel

from chassis import App, Handler, idempotent, responds

QUERY_SECONDS = 0.003


class Level(BaseModel):
    """How much there is of a product."""

    sku: str
    count: int


class Reservation(BaseModel):
    """Products that nobody else can buy."""

    sku: str
    quantity: int


class Levels(Handler):
    """The level of one product."""

    async def get(self, sku: str) -> Level:
        """Read it."""
        await asyncio.sleep(QUERY_SECONDS)
        return Level(sku=sku, count=len(sku))


class Reservations(Handler):
    """All reservations."""

    @idempotent(required=True)
    @responds(201)
    async def post(self, body: Reservation) -> Reservation:
        """Reserve products."""
        await asyncio.sleep(QUERY_SECONDS)
        return body


def add_levels(app: App) -> None:
    """Add the routes of the stock."""
    app.add_route("/levels/{sku}", Levels())
    app.add_route("/reservations", Reservations())
