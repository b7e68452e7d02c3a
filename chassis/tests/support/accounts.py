"""The table `accounts` of the tests, for SQLAlchemy."""

from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column


class Base(DeclarativeBase):
    """The tables."""


class Account(Base):
    """An account."""

    __tablename__ = "accounts"

    id: Mapped[int] = mapped_column(primary_key=True)
    balance: Mapped[int]


async def balance_of(session: AsyncSession, account: int = 1) -> int:
    """Read the balance."""
    found = await session.get_one(Account, account)
    return found.balance


async def pay_from(session: AsyncSession, amount: int, account: int = 1) -> None:
    """Lower the balance."""
    found = await session.get_one(Account, account, with_for_update=True)
    found.balance -= amount
    await session.flush()
