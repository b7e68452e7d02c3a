"""Takes the service out of rotation by hand, and back in."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from ..health import Health
from .audit import EXPIRY, Audit


class ReadinessSwitch:
    """Makes `/readyz` respond 503, whatever the checks find. Requests are served as before."""

    def __init__(self, health: Health, audit: Audit) -> None:
        self._health = health
        self._audit = audit
        self._by = ""
        self._since: datetime | None = None
        self._until: datetime | None = None
        self._timer: asyncio.TimerHandle | None = None

    def disable(self, reason: str, seconds: float | None, *, by: str) -> None:
        """Make the service not ready; with `seconds` for that long, else until `enable`."""
        self._stop_timer()
        was_ready = self._health.disabled is None
        self._health.disabled = reason
        self._by, self._since = by, datetime.now(UTC)
        if seconds is not None:
            self._until = self._since + timedelta(seconds=seconds)
            self._timer = asyncio.get_running_loop().call_later(seconds, lambda: self.enable(by=EXPIRY))
        self._audit.changed("readiness", by=by, ready=False, was_ready=was_ready, reason=reason, seconds=seconds)

    def enable(self, *, by: str) -> None:
        """Let the checks decide again whether the service is ready."""
        self._stop_timer()
        if self._health.disabled is not None:
            self._health.disabled = self._since = None
            self._audit.changed("readiness", by=by, ready=True, was_ready=False)

    def document(self) -> dict[str, Any]:
        """Whether an operator lets the service be ready, and if not, why."""
        reason, since = self._health.disabled, self._since
        if reason is None or since is None:
            return {"ready": True, "reason": None, "by": None, "since": None, "until": None}
        until = None if self._until is None else self._until.isoformat(timespec="milliseconds")
        return {
            "ready": False,
            "reason": reason,
            "by": self._by,
            "since": since.isoformat(timespec="seconds"),
            "until": until,
        }

    def _stop_timer(self) -> None:
        self._until = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
