"""`/gc`: the garbage collector and the memory of the process."""

import gc
import os
from pathlib import Path
from typing import Any

from ..api.handler import Handler

STATM = Path("/proc/self/statm")


class GarbageCollector(Handler):
    """Statistics of the garbage collector, by generation."""

    async def get(self) -> list[dict[str, Any]]:
        counts, thresholds = gc.get_count(), gc.get_threshold()
        generations = [
            {"count": count, "threshold": threshold, **statistics}
            for count, threshold, statistics in zip(counts, thresholds, gc.get_stats(), strict=False)
        ]
        return [
            {
                "is_enabled": gc.isenabled(),
                "frozen": gc.get_freeze_count(),
                "generations": generations,
                "resident_bytes": resident_bytes(),
            }
        ]


def resident_bytes() -> int | None:
    """The memory that the process has in RAM; None where the system does not say."""
    try:
        pages = int(STATM.read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    return pages * os.sysconf("SC_PAGE_SIZE")
