"""Limits of one route, which replace those of the service."""

from typing import NamedTuple


class RouteLimits(NamedTuple):
    """The limits of a route. None stands for the limit of the service."""

    max_body_bytes: int | None = None
    deadline_seconds: float | None = None
    sheds_load: bool = True
    """Whether requests of this route may be shed or queued under overload."""


NO_LIMITS = RouteLimits()
