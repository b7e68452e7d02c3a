"""`/requests`: the last requests, the slowest and the failed ones."""

from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import Field

from ..api.handler import Handler
from ..telemetry.recent_requests import MAX_RECENT, RecentRequests

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
        wanted = (request for request in kinds[kind]() if _matches(request, status, route, trace_id))
        return list(islice(wanted, limit))


def _matches(request: dict[str, Any], status: str | None, route: str | None, trace_id: str | None) -> bool:
    if status is not None and status not in (str(request["status"]), f"{request['status'] // 100}xx"):
        return False
    return route in (None, request["route"]) and trace_id in (None, request["trace_id"])
