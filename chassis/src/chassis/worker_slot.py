"""The number of this process, if it is one of several workers (`APP_WORKERS`)."""

from typing import ClassVar


class WorkerSlot:
    """Set before the application is created, and never changed."""

    number: ClassVar[int | None] = None
    """From 0 to `APP_WORKERS` - 1. A worker that replaces another one has its number. None without several workers."""

    @classmethod
    def does_work_of_pod(cls) -> bool:
        """Whether work that only one worker may do is done here."""
        return cls.number in (None, 0)
