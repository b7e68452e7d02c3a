"""The benchmark's service with one outbound call for each request, made by `app.client`."""

import os

from chassis import App, ChassisSettings, Handler, run
from chassis.client import Client

from .app import Item


class OneItem(Handler):
    """One item of another service."""

    def __init__(self, items: Client) -> None:
        self._items = items

    async def get(self, item_id: int) -> Item:
        """Read it there."""
        return await self._items.get("/items/{item_id}", path={"item_id": item_id}, returns=Item)


def create_app(settings: ChassisSettings) -> App:
    """Put the service together."""
    app = App(settings, name="bench-service")
    app.add_route("/items/{item_id}", OneItem(app.client("items", base_url=os.environ["UPSTREAM_URL"])))
    return app


if __name__ == "__main__":
    run(f"{__package__}.calling_app:create_app")
