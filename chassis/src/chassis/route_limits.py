"""Limits of one route, in place of those of the whole service."""

from typing import NamedTuple


class RouteLimits(NamedTuple):
    """What is None is as for all routes."""

    max_body_bytes: int | None = None
    deadline_seconds: float | None = None
    sheds_load: bool = True
    """Whether a request of this route may be rejected under overload, or wait then."""


NO_LIMITS = RouteLimits()
