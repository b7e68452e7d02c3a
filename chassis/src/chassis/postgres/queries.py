"""Queries: the methods that a `Database` and a `Transaction` have in common."""

from abc import ABC, abstractmethod
from collections.abc import Hashable, ItemsView, Iterable, Iterator, KeysView, Mapping, Sequence, ValuesView
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, cast


class Row(Protocol):
    """A row of a result, an `asyncpg.Record`: its values by name or by position."""

    def __getitem__(self, key: str | int) -> Any: ...

    def __iter__(self) -> Iterator[Any]: ...

    def __len__(self) -> int: ...

    def keys(self) -> KeysView[str]: ...

    def values(self) -> ValuesView[Any]: ...

    def items(self) -> ItemsView[str, Any]: ...


class Queries(ABC):
    """Runs SQL. Annotate a parameter of a store with it, to take a `Transaction` or the `Database`.

    Pass values as arguments for `$1`, `$2`, …, and never as a part of the text. `timeout_seconds` can only be shorter
    than the setting `database_statement_seconds`. Raises `DatabaseUnavailableError`, `StatementTimeoutError`,
    `ConflictError` and `InvalidValueError`. Errors of the query itself are those of asyncpg, such as
    `asyncpg.UniqueViolationError`.
    """

    async def fetch(self, query: str, *args: Any, timeout_seconds: float | None = None) -> Sequence[Row]:
        """All rows of the result."""
        return cast("Sequence[Row]", await self._run("fetch", query, args, timeout_seconds))

    async def fetchrow(self, query: str, *args: Any, timeout_seconds: float | None = None) -> Row | None:
        """The first row of the result; None if there is none."""
        return cast("Row | None", await self._run("fetchrow", query, args, timeout_seconds))

    async def fetchval(self, query: str, *args: Any, timeout_seconds: float | None = None) -> Any:
        """The first value of the first row; None if there is no row."""
        return await self._run("fetchval", query, args, timeout_seconds)

    async def execute(self, query: str, *args: Any, timeout_seconds: float | None = None) -> str:
        """Run a statement, or several without arguments. Returns the status of the last one, such as `UPDATE 3`."""
        return cast("str", await self._run("execute", query, args, timeout_seconds))

    async def executemany(
        self, query: str, args: Iterable[Sequence[Any]], *, timeout_seconds: float | None = None
    ) -> None:
        """Run a statement for each of `args`, in one transaction."""
        await self._run("executemany", query, (args,), timeout_seconds)

    @abstractmethod
    async def _run(self, method: str, query: str, args: tuple[Any, ...], timeout_seconds: float | None) -> Any:
        """Call a method of a connection."""


class AnyDatabase(Protocol):
    """A `Database` of `chassis.postgres` or of `chassis.sqlalchemy`, for tables of the chassis itself."""

    @property
    def queries(self) -> Queries:
        """Queries without a transaction."""
        ...

    def transaction(self) -> AbstractAsyncContextManager[Queries]:
        """A transaction: committed at the end of its block, rolled back if that raises."""
        ...

    def transaction_in(self, provided: Mapping[Hashable, Any]) -> Queries | None:
        """The transaction of this database among the values that a method got; None if there is none."""
        ...
