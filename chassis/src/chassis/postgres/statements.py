"""Runs statements of asyncpg: observed, in bounded time, with the errors of this package."""

from time import perf_counter
from typing import Any

from .connector import Connection, Connector
from .errors import DatabaseUnavailableError, translated
from .pool import is_closed
from .query_telemetry import QueryTelemetry


class Statements:
    """Runs statements on connections, observed, in bounded time."""

    def __init__(self, connector: Connector, telemetry: QueryTelemetry) -> None:
        self.seconds: float = connector.settings.database_statement_seconds
        self.is_session_limited: bool = not connector.settings.database_pooler
        """Whether the session has `seconds` as its `statement_timeout`."""
        self._connector = connector
        self._telemetry = telemetry

    async def run(
        self,
        connection: Connection,
        method: str,
        query: str,
        args: tuple[Any, ...],
        seconds: float,
        *,
        may_write: bool = True,
    ) -> Any:
        """Call a method of `connection`. Raises the `DatabaseError` that stands for an error, or the error itself."""
        telemetry = self._telemetry
        summary = telemetry.summary_of(query)
        span = telemetry.begin(summary)
        began = perf_counter()
        try:
            result = await getattr(connection, method)(query, *args, timeout=seconds)
        except BaseException as error:
            telemetry.end(span, summary, perf_counter() - began, error)
            if not isinstance(error, Exception):
                raise
            known = translated(error, is_closed=is_closed(connection), may_write=may_write)
            if known is None:
                raise
            if isinstance(known, DatabaseUnavailableError):
                self._connector.unavailable(known)
            raise known from error
        telemetry.end(span, summary, perf_counter() - began)
        return result
