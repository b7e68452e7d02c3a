"""Orders as clients send and receive them."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, Field

Sku = Annotated[str, Field(min_length=1, max_length=40, examples=["tea"])]

Position = tuple[AwareDatetime, UUID]


class OrderLine(BaseModel):
    """A product and its quantity."""

    sku: Sku
    quantity: int = Field(ge=1, le=1000, examples=[2])


class NewOrder(BaseModel):
    """A request to create an order."""

    customer: str = Field(min_length=1, max_length=200, examples=["Ada"])
    lines: list[OrderLine] = Field(min_length=1, max_length=20)


class Order(NewOrder):
    """A stored order."""

    id: UUID
    version: int = 1
    total_cents: int
    created: datetime

    @property
    def position(self) -> Position:
        """The position of the order in lists: the time of creation, then the ID."""
        return self.created, self.id
