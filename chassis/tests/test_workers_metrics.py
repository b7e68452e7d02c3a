"""The metrics of several workers as those of one service; changes that are repeated to new ones."""

import asyncio
import math
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import orjson
import pytest
import structlog
from prometheus_client import CollectorRegistry, Counter, Enum, Gauge, Histogram, Info
from prometheus_client.core import Metric

from chassis.health import State
from chassis.worker_slot import WorkerSlot
from chassis.workers.changes import Changes
from chassis.workers.merge import MergedMetrics
from chassis.workers.messages import METRICS, receive, send
from chassis.workers.snapshot import encode_snapshot
from chassis.workers.worker_process import WorkerProcess

from .support.application import make_app
from .support.clock import ManualClock
from .support.service import observed, until


class Registry:
    """The metrics of a worker."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.counter = Counter("orders", "Orders.", ["kind"], registry=self.registry)
        self.histogram = Histogram("seconds", "Seconds.", buckets=(1.0, 2.0), registry=self.registry)

    def gauge(self, name: str, value: float) -> "Registry":
        Gauge(name, "A gauge.", registry=self.registry).set(value)
        return self

    def snapshot(self, **merges: str) -> bytes:
        return encode_snapshot(self.registry, merges)


def samples(metrics: list[Metric], name: str) -> dict[str, float]:
    """The values of a sample by its labels."""
    return {
        ",".join(f"{key}={value}" for key, value in sample.labels.items()): sample.value
        for metric in metrics
        for sample in metric.samples
        if sample.name == name
    }


def test_counters_are_summed_by_their_labels() -> None:
    first, second = Registry(), Registry()
    first.counter.labels("new").inc(2)
    second.counter.labels("new").inc(3)
    second.counter.labels("old").inc()
    merged = MergedMetrics().collect([("0", first.snapshot()), ("1", second.snapshot())])
    assert samples(merged, "orders_total") == {"kind=new": 5, "kind=old": 1}


def test_workers_that_have_ended_still_count() -> None:
    metrics, first, second = MergedMetrics(), Registry(), Registry()
    first.counter.labels("new").inc(2)
    metrics.retire("0", first.snapshot())
    metrics.retire("0", first.snapshot())
    second.counter.labels("new").inc(1)
    for _ in range(2):  # each page begins with the same sums
        assert samples(metrics.collect([("0", second.snapshot())]), "orders_total") == {"kind=new": 5}


def test_worker_that_has_ended_without_metrics_changes_nothing() -> None:
    metrics = MergedMetrics()
    metrics.retire("0", b"")
    assert metrics.collect([]) == []


def test_histograms_are_summed_bucket_by_bucket() -> None:
    first, second = Registry(), Registry()
    first.histogram.observe(0.5)
    second.histogram.observe(1.5)
    merged = MergedMetrics().collect([("0", first.snapshot()), ("1", second.snapshot())])
    assert samples(merged, "seconds_bucket") == {"le=1.0": 1, "le=2.0": 2, "le=+Inf": 2}
    assert samples(merged, "seconds_sum") == {"": 2.0}


def test_newest_exemplar_of_a_bucket_is_kept() -> None:
    first, second = Registry(), Registry()
    second.histogram.observe(0.25, {"trace_id": "older"})
    first.histogram.observe(0.5, {"trace_id": "newer"})
    merged = MergedMetrics().collect([("0", first.snapshot()), ("1", second.snapshot())])
    (family,) = [metric for metric in merged if metric.name == "seconds"]
    exemplars = [sample.exemplar for sample in family.samples if sample.exemplar]
    assert [exemplar.labels for exemplar in exemplars] == [{"trace_id": "newer"}]


@pytest.mark.parametrize(
    ("how", "value"), [("sum", {"": 5}), ("max", {"": 3}), ("min", {"": 2}), (None, {"worker=0": 2, "worker=1": 3})]
)
def test_gauges_of_the_owner_are_merged_as_asked(how: str | None, value: dict[str, float]) -> None:
    first, second = (Registry().gauge("mine", number) for number in (2, 3))
    merges = {} if how is None else {"mine": how}
    merged = MergedMetrics().collect([("0", first.snapshot(**merges)), ("1", second.snapshot(**merges))])
    assert samples(merged, "mine") == value


def test_gauges_of_workers_that_have_ended_are_gone() -> None:
    metrics = MergedMetrics()
    metrics.retire("0", Registry().gauge("mine", 2).snapshot())
    assert samples(metrics.collect([]), "mine") == {}


def test_gauge_of_a_slot_is_that_of_its_newest_worker() -> None:
    old, new = (Registry().gauge("mine", number) for number in (2, 3))
    merged = MergedMetrics().collect([("0", old.snapshot()), ("0", new.snapshot())])
    assert samples(merged, "mine") == {"worker=0": 3}


def test_counter_of_a_process_goes_on_when_its_worker_is_replaced() -> None:
    def process(seconds: float) -> bytes:
        registry = CollectorRegistry()
        Counter("process_cpu_seconds", "CPU.", registry=registry).inc(seconds)
        return encode_snapshot(registry, {})

    metrics = MergedMetrics()
    metrics.retire("0", process(10))
    merged = metrics.collect([("0", process(1)), ("1", process(2))])
    assert samples(merged, "process_cpu_seconds_total") == {"worker=0": 11, "worker=1": 2}


def test_each_worker_has_its_own_state() -> None:
    def state(name: str) -> bytes:
        registry = CollectorRegistry()
        Enum("mode", "Mode.", states=["fast", "slow"], registry=registry).state(name)
        return encode_snapshot(registry, {})

    merged = MergedMetrics().collect([("0", state("fast")), ("1", state("slow"))])
    expected = {"mode=fast,worker=0": 1, "mode=slow,worker=0": 0, "mode=fast,worker=1": 0, "mode=slow,worker=1": 1}
    assert samples(merged, "mode") == expected


async def test_last_metrics_of_a_worker_are_not_replaced_by_an_earlier_response() -> None:
    ours, link = socket.socketpair()
    worker = WorkerProcess(1, 0, ours, on_change=lambda _: None, on_link_end=lambda _: None)
    pulling = asyncio.create_task(worker.pull_snapshot())
    await asyncio.sleep(0.01)
    message = receive(link)
    assert message is not None
    (connection,) = message.sockets
    send(link, METRICS, len(b"last"))
    link.sendall(b"last")
    while not worker.snapshot:
        await asyncio.sleep(0.001)
    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\nearlier")
    await pulling
    assert worker.snapshot == b"last"
    worker.end()
    connection.close()
    link.close()


def test_label_of_the_owner_that_is_called_worker_stays() -> None:
    def queue(value: float) -> bytes:
        registry = CollectorRegistry()
        Gauge("jobs", "Jobs.", ["worker"], registry=registry).labels("mail").set(value)
        return encode_snapshot(registry, {})

    assert samples(MergedMetrics().collect([("0", queue(1)), ("1", queue(2))]), "jobs") == {"worker=mail": 3}


def test_facts_that_are_the_same_everywhere_stay_one() -> None:
    def about() -> bytes:
        registry = CollectorRegistry()
        Info("about", "About.", registry=registry).info({"colour": "blue"})
        return encode_snapshot(registry, {})

    assert samples(MergedMetrics().collect([("0", about()), ("1", about())]), "about_info") == {"colour=blue": 1}


def test_values_that_json_does_not_have_are_kept() -> None:
    first = Registry().gauge("mine", math.inf).gauge("other", math.nan)
    merged = MergedMetrics().collect([("0", first.snapshot(mine="max", other="max"))])
    assert samples(merged, "mine") == {"": math.inf}
    assert math.isnan(samples(merged, "other")[""])


# Changes.


def put(changes: Changes, target: bytes, body: object, slot: int | None = None, response: object = None) -> None:
    changes.note("PUT", target, slot, [], orjson.dumps(body), orjson.dumps(response))


def repeated(changes: Changes, slot: int) -> list[tuple[bytes, object]]:
    return [(change.target, orjson.loads(body)) for change, body in changes.of(slot)]


def test_last_change_of_a_path_is_repeated() -> None:
    changes = Changes()
    put(changes, b"/loggers/root", {"level": "DEBUG"})
    put(changes, b"/loggers/root", {"level": "ERROR"})
    put(changes, b"/loggers/httpx", {"level": "INFO"})
    assert repeated(changes, 0) == [(b"/loggers/root", {"level": "ERROR"}), (b"/loggers/httpx", {"level": "INFO"})]


def test_deletion_ends_a_change_and_nothing_else_is_repeated() -> None:
    changes = Changes()
    put(changes, b"/readiness", {"ready": False})
    changes.note("DELETE", b"/readiness", None, [], b"", b"")
    changes.note("POST", b"/profile/cpu", None, [], b"", b"")
    assert repeated(changes, 0) == []


def test_change_of_one_worker_is_repeated_in_its_slot_until_all_are_changed() -> None:
    changes = Changes()
    put(changes, b"/faults", [], slot=1)
    assert (repeated(changes, 0), repeated(changes, 1)) == ([], [(b"/faults", [])])
    put(changes, b"/faults", [{"status": 503}])
    assert repeated(changes, 0) == repeated(changes, 1) == [(b"/faults", [{"status": 503}])]


def test_deletion_for_one_worker_ends_a_change_of_all_in_its_slot() -> None:
    changes = Changes()
    put(changes, b"/readiness", {"ready": False})
    changes.note("DELETE", b"/readiness", 1, [], b"", b"")
    assert (repeated(changes, 0), repeated(changes, 1)) == ([(b"/readiness", {"ready": False})], [])
    put(changes, b"/readiness", {"ready": False})
    assert repeated(changes, 1) == [(b"/readiness", {"ready": False})]


def test_change_of_one_worker_replaces_that_of_all_also_when_its_time_is_over() -> None:
    clock = ManualClock()
    changes = Changes(clock.monotonic)
    put(changes, b"/loggers/root", {"level": "ERROR"})
    put(changes, b"/loggers/root", {"level": "DEBUG", "seconds": 60}, slot=1)
    assert repeated(changes, 1) == [(b"/loggers/root", {"level": "DEBUG", "seconds": 60})]
    clock.now += 61
    assert repeated(changes, 1) == []  # as in the worker that was asked
    assert repeated(changes, 0) == [(b"/loggers/root", {"level": "ERROR"})]


def test_rest_of_a_limited_time_is_left() -> None:
    clock = ManualClock()
    changes = Changes(clock.monotonic)
    put(changes, b"/loggers/root", {"level": "DEBUG", "seconds": 600})
    put(changes, b"/faults", [{"status": 503, "seconds": 60}, {"status": 500}])
    clock.now += 100
    assert repeated(changes, 0) == [
        (b"/loggers/root", {"level": "DEBUG", "seconds": 500}),
        (b"/faults", [{"status": 500}]),
    ]
    clock.now += 500
    assert repeated(changes, 0) == [(b"/faults", [{"status": 500}])]


def test_change_with_the_default_of_its_time_is_not_repeated_for_ever() -> None:
    clock = ManualClock()
    changes = Changes(clock.monotonic)
    until = datetime.now(UTC) + timedelta(seconds=600)
    put(changes, b"/loggers/root", {"level": "DEBUG"}, response={"name": "root", "until": until.isoformat()})
    put(changes, b"/readiness", {"ready": False}, response={"ready": False, "until": None})
    clock.now += 100
    assert repeated(changes, 0) == [
        (b"/loggers/root", {"level": "DEBUG", "seconds": 500}),
        (b"/readiness", {"ready": False}),
    ]
    clock.now += 500
    assert repeated(changes, 0) == [(b"/readiness", {"ready": False})]


# Telemetry of a worker.


@pytest.fixture
def worker_3() -> Iterator[None]:
    """The number of a worker for this process."""
    WorkerSlot.number = 3
    yield
    WorkerSlot.number = None


@pytest.mark.usefixtures("worker_3")
def test_spans_and_log_lines_have_the_worker() -> None:
    with observed() as seen:
        assert seen.telemetry.tracing.resource.attributes["service.worker"] == "3"
        structlog.get_logger().info("hello")
        (line,) = seen.lines
        assert line["worker"] == 3


def test_without_several_workers_nothing_has_a_worker() -> None:
    with observed() as seen:
        assert "service.worker" not in seen.telemetry.tracing.resource.attributes
        structlog.get_logger().info("hello")
        (line,) = seen.lines
        assert "worker" not in line


async def work() -> None:
    """Does nothing."""


@pytest.mark.parametrize("number", [None, 0, 3])
async def test_work_of_the_pod_is_done_by_the_worker_that_is_chosen(number: int | None) -> None:
    WorkerSlot.number = number
    done: list[str] = []

    async def note(name: str) -> None:
        done.append(name)

    try:
        with observed() as seen:
            app = make_app(seen.telemetry)
            app.add_background_task("pod", lambda: note("pod"), once_per="pod")
            app.every(60, lambda: note("pod, periodic"), name="periodic", jitter=0, once_per="pod")
            app.add_background_task("both", lambda: note("both"))
            await app.open()
            await until(lambda: "both" in done, 5)
            if number is not None:
                assert done == ["both"]
                app.begin_pod_work()
                (line,) = [line for line in seen.lines if line["event"] == "doing the work of the pod"]
                assert line["tasks"] == ["pod", "periodic"]
            await until(lambda: {*done} == {"both", "pod", "pod, periodic"}, 5)
            await app.stop()
    finally:
        WorkerSlot.number = None


async def test_work_of_the_pod_that_is_required_is_a_check_of_each_worker() -> None:
    WorkerSlot.number = 3
    try:
        with observed() as seen:
            app = make_app(seen.telemetry)
            app.add_background_task("pod", work, once_per="pod", required=True)
            app.every(60, work, name="periodic", once_per="pod", required=True)
            app.health.state = State.READY
            is_ready, document = await app.health.report()
            assert is_ready
            assert set(document["checks"]) == {"background task pod", "periodic task periodic"}
    finally:
        WorkerSlot.number = None


def test_work_is_once_per_worker_or_pod() -> None:
    with observed() as seen:
        app = make_app(seen.telemetry)
        with pytest.raises(ValueError, match='once_per is \'instance\'; pass "worker" or "pod"'):
            app.every(60, work, name="work", once_per="instance")  # type: ignore[arg-type]
