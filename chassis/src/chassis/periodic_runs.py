"""The last run of periodic work, for operators."""

from typing import Literal

RunResult = Literal["success", "idle", "failure", "cancelled"]
"""`idle` had nothing to do; `cancelled` was stopped with the service."""


class Run:
    """A run of periodic work, in progress or ended."""

    __slots__ = ("error", "result", "seconds", "started")

    def __init__(self, started: float) -> None:
        self.started: float = started
        """When, in seconds since the epoch."""
        self.result: RunResult | None = None
        """None while it runs."""
        self.seconds: float | None = None
        """How long it took; None while it runs."""
        self.error: str = ""
        """The exception of a failure; it may have secrets in it."""

    def end(self, result: RunResult, seconds: float, error: BaseException | None = None) -> None:
        """Note the end of the run."""
        self.result, self.seconds = result, seconds
        if error is not None:
            self.error = f"{type(error).__qualname__}: {error}"
