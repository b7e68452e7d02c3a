"""The options of periodic work, and what it may return."""

import math
from collections.abc import Callable
from enum import Enum
from typing import Final, TypedDict

from .lease import Lease
from .worker_slot import OncePer

Work = Callable[[], object]


class Idle(Enum):
    """The type of `IDLE`."""

    IDLE = "idle"


IDLE: Final = Idle.IDLE
"""Return this from periodic work that had nothing to do: then the run has no log line and no span of its own.

Spans that the work has created, such as those of its calls to other services, are still exported if sampled.
"""


class PeriodicOptions(TypedDict, total=False):
    """The keyword arguments of `App.every` and `App.daily`."""

    name: str
    """The name in logs, spans, metrics and leases. Default: the function's name."""
    jitter: float
    """The longest random delay of each run, in seconds. Default: a tenth of the interval, at most 30."""
    timeout: float
    """The longest time of a run, in seconds; then it fails. Default: 60 for `every`, 3,600 for `daily`."""
    required: bool
    """Whether the service is unready after a failure, until the next success. Default: False."""
    lease: Lease | None
    """With a lease, only one instance does the work. Default: every instance does."""
    once_per: OncePer
    """With several workers (`APP_WORKERS`), who of an instance does the work: every `worker`, or one for the `pod`.
    Default: every worker."""


def checked_seconds(name: str, value: float, *, at_most: float = math.inf) -> float:
    """The value of an option. Raises `ValueError` if it is out of bounds."""
    if not 0 <= value <= at_most or value == math.inf:
        allowed = "0 or more" if at_most == math.inf else f"from 0 to {at_most:g} (the interval)"
        raise ValueError(f"{name} is {value}; pass a number of seconds, {allowed}")
    return value


def name_of(work: Work) -> str:
    """The name of a function. Raises `ValueError` without a usable one."""
    name = str(getattr(work, "__qualname__", "")).rpartition("<locals>.")[2]
    if not name.replace(".", "_").isidentifier():
        raise ValueError(f'{work!r} has no usable name; pass one, such as name="send reports"')
    return name
