"""The benchmark's service: it replaces the rendered app.py."""

from pydantic import BaseModel, Field

from chassis import App, ChassisSettings, Handler


class Item(BaseModel):
    """An item."""

    id: int
    name: str


class NewItem(BaseModel):
    """An item as a client sends it."""

    name: str = Field(min_length=1, max_length=100)
    quantity: int = Field(ge=1, le=1000)
    tags: list[str] = Field(max_length=10)


class Items(Handler):
    """All items."""

    async def post(self, body: NewItem) -> Item:
        """Create an item."""
        return Item(id=1, name=body.name)


class OneItem(Handler):
    """One item."""

    async def get(self, item_id: int) -> Item:
        """Read an item."""
        return Item(id=item_id, name=f"item {item_id}")


def create_app(settings: ChassisSettings) -> App:
    """Put the service together."""
    app = App(settings, name="bench-service")
    app.add_route("/items", Items())
    app.add_route("/items/{item_id}", OneItem())
    return app
