"""The benchmark's service with `chassis.sqlalchemy`: one object by its primary key."""

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from chassis import App, ChassisSettings, Handler, Problem, run
from chassis.sqlalchemy import DatabaseSettings, add_database

from .app import Item


class Base(DeclarativeBase):
    """The tables."""


class StoredItem(Base):
    """An item in the database."""

    __tablename__ = "items"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Settings(ChassisSettings, DatabaseSettings):
    """The settings of this service."""


class OneItem(Handler):
    """One item."""

    async def get(self, item_id: int, session: AsyncSession) -> Item:
        """Read an item."""
        item = await session.get(StoredItem, item_id)
        if item is None:
            raise Problem(404)
        return Item(id=item.id, name=item.name)


def create_app(settings: Settings) -> App:
    """Put the service together."""
    app = App(settings, name="bench-service")
    add_database(app, settings)
    app.add_route("/items/{item_id}", OneItem())
    return app


if __name__ == "__main__":
    run(f"{__package__}.sqlalchemy_app:create_app")
