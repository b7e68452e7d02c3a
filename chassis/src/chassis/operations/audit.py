"""One log line for each change that an operator makes, at every log level."""

from datetime import UTC, datetime
from typing import Any

from ..telemetry.logs import Logs, add_request_ids

EXPIRY = "expiry"
"""Who has made a change that ends by itself."""


class Audit:
    """Writes a line for each change. An operator who sets the log level to CRITICAL does not hide later changes."""

    def __init__(self, logs: Logs) -> None:
        self._log = logs.access_logger()

    def changed(self, what: str, *, by: str, **facts: Any) -> None:
        """Log that `by`, the address of an operator or `EXPIRY`, has changed something. Secrets are redacted."""
        self.line("info", f"operator changed {what}", by=by, **facts)

    def line(self, level: str, event: str, *, by: str, **facts: Any) -> None:
        """Log a change as an event of its own."""
        line = {"timestamp": datetime.now(UTC), "level": level, "event": event, "by": by}
        line |= self._log.redact(facts)
        self._log.line(level, dict(add_request_ids(None, "", line)))
