"""The catalogue: a read of a product, from a database that takes its time."""

import asyncio

from pydantic import BaseModel

from chassis import App, Handler

QUERY_SECONDS = 0.003


class Product(BaseModel):
    """A product that is sold."""

    sku: str
    name: str
    cents: int


class Products(Handler):
    """One product."""

    async def get(self, sku: str) -> Product:
        """Read it."""
        await asyncio.sleep(QUERY_SECONDS)
        return Product(sku=sku, name=f"Product {sku}", cents=100 + len(sku))


def add_products(app: App) -> None:
    """Add the routes of the catalogue."""
    app.add_route("/products/{sku}", Products())
