"""The number of workers: a setting, or as many as the process has whole cores."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

PROC_CGROUP = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")


def worker_count(setting: int | Literal["auto"], *, own: Path = PROC_CGROUP, cgroups: Path = CGROUPS) -> int:
    """The number of workers for the setting `APP_WORKERS`.

    `auto` is the CPU limit of the container, rounded down to whole cores, and at least 1. Without a limit, it is the
    number of processors on which the process may run. `own` and `cgroups` are the files of the kernel (cgroups(7)).
    """
    if setting != "auto":
        return setting
    limits = [float(processors()), *cpu_limits(own, cgroups)]
    return max(1, int(min(limits)))


def processors() -> int:
    """The number of processors on which this process may run."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_limits(own: Path, cgroups: Path) -> Iterator[float]:
    """The CPU limits, in cores, of the control group of this process and of those above it."""
    for line in _text(own).splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if not controllers:  # version 2
            folders = [cgroups, cgroups / "unified"]
            read = _limit
        elif "cpu" in controllers.split(","):
            folders = [cgroups / "cpu", cgroups / controllers]
            read = _old_limit
        else:
            continue
        group = Path(path.strip("/"))
        for folder in folders:
            # In a container the path may be that of the host. Its own group is then the root that it sees.
            for parent in (group, *group.parents):
                limit = read(folder / parent)
                if limit is not None:
                    yield limit


def _limit(group: Path) -> float | None:
    """Control Group v2, `cpu.max`: microseconds in each period, or `max`."""
    quota, _, period = _text(group / "cpu.max").partition(" ")
    return _cores(quota, period)


def _old_limit(group: Path) -> float | None:
    """CFS Bandwidth Control; a quota of -1 is none."""
    return _cores(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us"))


def _cores(quota: str, period: str) -> float | None:
    if not quota.strip().isdecimal() or not period.strip().isdecimal() or not int(period):
        return None
    return int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""
