"""The number of this process, if it is one of several workers (`APP_WORKERS`), and the work that it does as such."""

from typing import ClassVar, Literal, get_args

OncePer = Literal["worker", "pod"]
"""Whether every worker does some work, or one of them for the pod."""


class WorkerSlot:
    """Set before the application is created, and never changed."""

    number: ClassVar[int | None] = None
    """From 0 to `APP_WORKERS` - 1. A worker that replaces another one has its number. None without several workers."""


def is_done_here(once_per: OncePer) -> bool:
    """Whether this process does the work. Raises `ValueError` for anything but `worker` and `pod`."""
    if once_per not in get_args(OncePer):
        raise ValueError(f'once_per is {once_per!r}; pass "worker" or "pod"')
    return once_per == "worker" or WorkerSlot.number in (None, 0)
