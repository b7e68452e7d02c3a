"""Observes queries: a histogram, a span in sampled traces, and a log line for slow ones. No value of a query is shown.

A query whose trace is not sampled makes no span, and asks for that first.
"""

from typing import Any

import asyncpg
import structlog
from opentelemetry import context as otel_context
from opentelemetry.trace import Status, StatusCode, get_current_span
from structlog.typing import FilteringBoundLogger

from ..context import request_context
from ..telemetry import Telemetry
from ..telemetry.client_spans import ClientSpan
from ..telemetry.error_type import qualified_name
from ..telemetry.suppression import is_suppressed
from .metrics import SYSTEM, DatabaseMetrics, QueryKey
from .query_summary import QuerySummaries
from .settings import DatabaseSettings

log: FilteringBoundLogger = structlog.get_logger()

FAILED = Status(StatusCode.ERROR)


class QueryTelemetry:
    """Observes the queries of one database."""

    def __init__(self, telemetry: Telemetry | None, settings: DatabaseSettings) -> None:
        self.summary_of: QuerySummaries = QuerySummaries()
        self._telemetry = telemetry
        self._metrics = None if telemetry is None else DatabaseMetrics.of(telemetry)
        self._slow_seconds = settings.database_slow_query_seconds
        self.use_settings(settings)

    def use_settings(self, settings: DatabaseSettings) -> None:
        """Observe queries of this server and database from now on."""
        address = settings.database_address
        self._namespace = address.database
        self._attributes: dict[str, Any] = {
            "db.system.name": SYSTEM,
            "db.namespace": address.database,
            "server.address": address.host,
            "server.port": address.port,
        }

    def begin(self, summary: str) -> ClientSpan | None:
        """The span of a query, a child of the current one; None if the trace is not sampled, and outside of traces."""
        context = otel_context.get_current()
        request = request_context(context)
        if self._telemetry is None or not (
            get_current_span(context).get_span_context().trace_flags.sampled if request is None else request.sampled
        ):
            return None
        if is_suppressed(context):
            return None
        span = self._telemetry.client.start_span(summary, context)
        return span if isinstance(span, ClientSpan) else None

    def end(self, span: ClientSpan | None, summary: str, seconds: float, error: BaseException | None = None) -> None:
        """Note that a query has ended, or failed with `error`."""
        status_code = error_type = ""
        if error is not None:
            status_code = error.sqlstate or "" if isinstance(error, asyncpg.PostgresError) else ""
            error_type = status_code or qualified_name(type(error))
        if self._metrics is not None:
            key = QueryKey(self._namespace, summary, status_code, error_type)
            self._metrics.observe(key, seconds, None if span is None else span.request.trace_id)
        if seconds >= self._slow_seconds:
            log.warning("slow query", query_summary=summary, seconds=round(seconds, 3), error_type=error_type or None)
        if span is not None:
            attributes = {**self._attributes, "db.query.summary": summary}
            if error is not None:
                attributes["error.type"] = error_type
                if status_code:
                    attributes["db.response.status_code"] = status_code
                # The text of the error may have values, so it is not recorded.
                span.set_status(FAILED)
            span.set_attributes(attributes)
            span.end_after(seconds)
