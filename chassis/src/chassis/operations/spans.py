"""`GET /spans`: the spans of the last traces, in development."""

from typing import Annotated, Any

from pydantic import Field

from ..api.handler import Handler
from ..telemetry.recent_spans import MAX_TRACES, RecentSpans


class Spans(Handler):
    """The spans of one trace, or of the last `limit` traces. Only services in development have it."""

    def __init__(self, spans: RecentSpans) -> None:
        self._spans = spans

    async def get(
        self,
        trace_id: Annotated[str | None, Field(pattern="^[0-9a-f]{32}$")] = None,
        limit: Annotated[int, Field(ge=1, le=MAX_TRACES)] = 50,
    ) -> list[dict[str, Any]]:
        return self._spans.documents(trace_id=trace_id, limit=limit)
