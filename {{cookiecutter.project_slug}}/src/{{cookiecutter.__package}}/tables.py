"""The tables of this service. `make migration` compares them with the migrations, and writes the difference."""

from chassis.migrations import NAMING_CONVENTION, idempotency_table
from sqlalchemy import MetaData
from sqlalchemy.orm import DeclarativeBase


class Base(DeclarativeBase):
    """The base class of all tables. Define yours in modules that are called `tables`, such as `orders/tables.py`."""

    metadata = MetaData(naming_convention=NAMING_CONVENTION)


idempotency_table(Base.metadata)
