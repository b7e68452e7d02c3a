"""`/readiness`: an operator takes the service out of rotation, and back in."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from starlette.requests import Request

from ..api.handler import Handler
from ..health import Health
from .access import client_of
from .audit import EXPIRY, Audit

DAY_SECONDS = 86_400


class ReadinessSwitch:
    """Makes `/readyz` respond 503, whatever the checks find. Requests are served as before."""

    def __init__(self, health: Health, audit: Audit) -> None:
        self._health = health
        self._audit = audit
        self._by = ""
        self._since: datetime | None = None
        self._timer: asyncio.TimerHandle | None = None

    def disable(self, reason: str, seconds: float | None, *, by: str) -> None:
        """Make the service not ready; with `seconds` for that long, else until `enable`."""
        self._stop_timer()
        self._health.disabled = reason
        self._by, self._since = by, datetime.now(UTC)
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, lambda: self.enable(by=EXPIRY))
        self._audit.changed("readiness", by=by, ready=False, reason=reason, seconds=seconds)

    def enable(self, *, by: str) -> None:
        """Let the checks decide again whether the service is ready."""
        self._stop_timer()
        if self._health.disabled is not None:
            self._health.disabled = self._since = None
            self._audit.changed("readiness", by=by, ready=True)

    def document(self) -> dict[str, Any]:
        """Whether an operator lets the service be ready, and if not, why."""
        reason, since = self._health.disabled, self._since
        if reason is None or since is None:
            return {"ready": True, "reason": None, "by": None, "since": None}
        return {"ready": False, "reason": reason, "by": self._by, "since": since.isoformat(timespec="seconds")}

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class ReadinessChange(BaseModel):
    """Whether the service may be ready."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", allow_inf_nan=False)

    ready: bool
    reason: Annotated[str, StringConstraints(strip_whitespace=True, max_length=500)] = ""
    seconds: float | None = Field(default=None, ge=1, le=DAY_SECONDS)

    @model_validator(mode="after")
    def _has_reason(self) -> Self:
        if not self.ready and not self.reason:
            raise ValueError("set reason too, so that others learn why the service is out of rotation")
        return self


class ReadinessByHand(Handler):
    """The readiness that operators have set. `/readyz` is the readiness that counts."""

    def __init__(self, switch: ReadinessSwitch) -> None:
        self._switch = switch

    async def get(self) -> dict[str, Any]:
        return self._switch.document()

    async def put(self, request: Request, body: ReadinessChange) -> dict[str, Any]:
        by = client_of(request.scope)
        if body.ready:
            self._switch.enable(by=by)
        else:
            self._switch.disable(body.reason, body.seconds, by=by)
        return self._switch.document()

    async def delete(self, request: Request) -> None:
        self._switch.enable(by=client_of(request.scope))
