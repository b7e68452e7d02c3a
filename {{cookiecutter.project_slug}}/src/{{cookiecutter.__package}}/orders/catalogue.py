"""Prices of products."""


class UnknownProductError(Exception):
    """The catalogue has no product with this SKU."""

    def __init__(self, sku: str) -> None:
        super().__init__(f"There is no {sku!r} in the catalogue.")


class Catalogue:
    """Prices in memory. A real catalogue would call another service."""

    def __init__(self) -> None:
        self._cents = {"tea": 450, "coffee": 690, "cocoa": 820}

    async def price_cents(self, sku: str) -> int:
        """Return the price of a product; raises `UnknownProductError`."""
        if sku not in self._cents:
            raise UnknownProductError(sku)
        return self._cents[sku]

    async def ping(self) -> None:
        """Raise an error if the catalogue is unavailable. `/readyz` calls it."""
