"""The benchmark's service with `chassis.postgres`: one row by its primary key."""

from chassis import App, ChassisSettings, Handler, Problem, run
from chassis.postgres import Database, DatabaseSettings, add_database

from .app import Item


class Settings(ChassisSettings, DatabaseSettings):
    """The settings of this service."""


class OneItem(Handler):
    """One item."""

    async def get(self, item_id: int, database: Database) -> Item:
        """Read an item."""
        row = await database.fetchrow("SELECT id, name FROM items WHERE id = $1", item_id)
        if row is None:
            raise Problem(404)
        return Item(id=row["id"], name=row["name"])


def create_app(settings: Settings) -> App:
    """Put the service together."""
    app = App(settings, name="bench-service")
    add_database(app, settings)
    app.add_route("/items/{item_id}", OneItem())
    return app


if __name__ == "__main__":
    run(f"{__package__}.asyncpg_app:create_app")
