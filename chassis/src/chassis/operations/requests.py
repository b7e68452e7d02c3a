"""`/requests`: the last requests, the slowest and the failed ones."""

from typing import Annotated, Any, Literal

from pydantic import Field

from ..api.handler import Handler
from ..telemetry.recent_requests import MAX_RECENT, RecentRequests, RequestRecord

Status = Annotated[str, Field(pattern=r"^[1-5]([0-9][0-9]|xx)$", description="Such as `404` or `5xx`.")]


class Requests(Handler):
    """The facts of the access lines, as far as they are kept. Requests of the admin port and probes are not among them.

    `status` of a gRPC call is the status of HTTP that its `code` corresponds to, by google/rpc/code.proto.
    """

    def __init__(self, recent: RecentRequests) -> None:
        self._recent = recent

    async def get(
        self,
        kind: Literal["recent", "slow", "failed"] = "recent",
        status: Status | None = None,
        route: str | None = None,
        trace_id: str | None = None,
        limit: Annotated[int, Field(ge=1, le=MAX_RECENT)] = 100,
    ) -> list[dict[str, Any]]:
        """The newest first; with `kind=slow`, the slowest first."""
        kinds = {"recent": self._recent.recent, "slow": self._recent.slow, "failed": self._recent.failed}
        wanted = [record for record in kinds[kind]() if _matches(record, status, route, trace_id)]
        return [record.document() for record in wanted[:limit]]


def _matches(record: RequestRecord, status: str | None, route: str | None, trace_id: str | None) -> bool:
    if status is not None and str(record.status) != status and f"{record.status // 100}xx" != status:
        return False
    return route in (None, record.route) and trace_id in (None, record.trace_id)
