"""Observes the statements of an engine, and replaces errors of SQLAlchemy by those of `chassis.postgres`."""

from time import perf_counter
from typing import Any

from sqlalchemy import Connection, ExceptionContext, event

from ..postgres.errors import DatabaseUnavailableError, is_lost, translated
from ..postgres.query_telemetry import QueryTelemetry
from .engine_pool import EnginePool

BEGUN = "chassis_begun"  # the attribute of an execution context


class EngineObserver:
    """Listens to an engine of SQLAlchemy."""

    def __init__(self, pool: EnginePool, telemetry: QueryTelemetry) -> None:
        self._pool = pool
        self._telemetry = telemetry
        engine = pool.engine.sync_engine
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)
        event.listen(engine, "handle_error", self._on_error)

    def _before(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        summary = self._telemetry.summary_of(statement)
        context.chassis_begun = (self._telemetry.begin(summary), summary, perf_counter())

    def _after(
        self, connection: Connection, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
    ) -> None:
        span, summary, began = context.chassis_begun
        self._telemetry.end(span, summary, perf_counter() - began)

    def _on_error(self, context: ExceptionContext) -> BaseException | None:
        error: BaseException = context.original_exception
        # The error of asyncpg is the cause of SQLAlchemy's emulation of an error of DBAPI.
        cause = error.__cause__ if context.sqlalchemy_exception is not None and error.__cause__ is not None else error
        begun = getattr(context.execution_context, BEGUN, None)
        if begun is not None:
            span, summary, began = begun
            self._telemetry.end(span, summary, perf_counter() - began, cause)
        # Other connections are asked for a sign of life where that is due; all would be replaced otherwise.
        context.invalidate_pool_on_disconnect = False
        connection = context.connection
        if connection is None or not isinstance(cause, Exception):
            return None
        may_write = not connection.get_execution_options().get("postgresql_readonly", False)
        known = translated(cause, is_closed=_is_closed(connection), may_write=may_write)
        if known is None:
            return None
        if is_lost(known):
            context.is_disconnect = True
        if isinstance(known, DatabaseUnavailableError):
            self._pool.unavailable(known)
        return known


def _is_closed(connection: Connection) -> bool:
    if connection.closed or connection.invalidated:
        return True
    driver: Any = connection.connection.driver_connection
    return driver is None or bool(driver.is_closed())
