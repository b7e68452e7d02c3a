"""The machine: which cores are whose, and what it is, for the results."""

import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Cores:
    """The server has a core for itself where there are two; the load and all who read share what is left."""

    server: frozenset[int]
    load: frozenset[int]
    others: frozenset[int]

    @classmethod
    def share_out(cls) -> "Cores":
        """The first core is the server's, the second wrk's, the third and later the readers' and the collector's."""
        allowed = sorted(os.sched_getaffinity(0))
        server = frozenset(allowed[:1])
        load = frozenset(allowed[1:2]) or server
        return cls(server, load, frozenset(allowed[2:]) or load)

    @property
    def note(self) -> str:
        """How it was shared out, in words."""
        if self.server == self.load:
            return "one core for everything: figures say little"
        if self.others == self.load:
            return "server on one core; load, readers and collector on another"
        return "server on one core, load on a second, readers and collector on others"


def facts() -> dict[str, str]:
    """Size and kind, nothing that names this very machine."""
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    model = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    return {
        "cores": str(len(os.sched_getaffinity(0))),
        "processor": model[1].strip() if model else platform.machine(),
        "memory": f"{int(memory[1]) / 1_048_576:.0f} GiB" if memory else "unknown",
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}{_distribution()}",
    }


def _distribution() -> str:
    """Which one: how its Python was built is worth a third of the speed."""
    try:
        return f", {platform.freedesktop_os_release()['PRETTY_NAME']}"
    except (OSError, KeyError):
        return ""
