"""The metrics of the pod: those of all workers, and those of the supervisor."""

import asyncio
import gzip
from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from ..telemetry.exposition import GZIP_LEVEL, Page
from ..threads import in_thread
from .merge import MergedMetrics
from .snapshot import encode_snapshot
from .worker_process import WorkerProcess

SUPERVISOR: Final = "supervisor"
REASONS = ("died", "hung", "memory", "reload", "retired")


class WorkerMetrics:
    """Counts restarts, and makes the page of all metrics."""

    def __init__(self) -> None:
        self.totals: MergedMetrics = MergedMetrics()
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.configured: Gauge = Gauge("workers", "Worker processes that are configured.", registry=registry)
        self.ready: Gauge = Gauge("workers_ready", "Worker processes that accept connections.", registry=registry)
        self.restarts: Counter = Counter(
            "worker_restarts", "Workers that were started in place of another one.", ["reason"], registry=registry
        )
        for reason in REASONS:
            self.restarts.labels(reason)  # 0 from now on: `increase` counts no series that begins at 1

    async def page(self, workers: Callable[[], Sequence[WorkerProcess]], accept: str, *, compress: bool) -> Page:
        """The present metrics as Prometheus text, or as OpenMetrics when `accept` asks for it."""
        await asyncio.gather(*(worker.pull_snapshot() for worker in workers()))
        running = [(worker.label, worker.snapshot) for worker in workers() if worker.snapshot]
        merged = self.totals.collect([(SUPERVISOR, encode_snapshot(self._registry, {})), *running])
        encode, content_type = choose_encoder(accept)
        registry = CollectorRegistry()
        registry.register(_Collected(merged))

        def make() -> Page:
            content = encode(registry)
            return Page(gzip.compress(content, GZIP_LEVEL) if compress else content, content_type, compress)

        return await asyncio.wrap_future(in_thread(make, name="metrics"))


class _Collected(Collector):
    """Metrics that were collected already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        """The metrics that prometheus-client exposes."""
        return self._metrics
