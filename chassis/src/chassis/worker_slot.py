"""The number of this process, if it is one of several workers (`APP_WORKERS`), and the work that it does as such."""

from typing import ClassVar, Literal, get_args

OncePer = Literal["worker", "pod"]
"""Whether every worker does some work, or one of them for the pod."""


class WorkerSlot:
    """Set before the application is created, and never changed."""

    number: ClassVar[int | None] = None
    """From 0 to `APP_WORKERS` - 1. A worker that replaces another one has its number. None without several workers."""


def is_assigned(once_per: OncePer) -> bool:
    """Whether this process does the work only when it is chosen. Raises `ValueError` for other than `worker` and `pod`.

    A process that is the only one of its pod does all work.
    """
    if once_per not in get_args(OncePer):
        raise ValueError(f'once_per is {once_per!r}; pass "worker" or "pod"')
    return once_per == "pod" and WorkerSlot.number is not None
