"""The workers of a service: started, replaced, and stopped."""

import asyncio
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog
from structlog.typing import FilteringBoundLogger

from .messages import EXITED, FORK, FORKED, LISTEN, POD_WORK, SIGNAL, UNLISTEN, Message, receive, send
from .metrics import WorkerMetrics
from .public_sockets import PublicSockets
from .worker_process import WorkerProcess, WorkerState
from .zygote import ZygoteHandle

log: FilteringBoundLogger = structlog.get_logger()

FIRST_DELAY_SECONDS = 1.0
MAX_DELAY_SECONDS = 30.0
STABLE_SECONDS = 60.0  # a worker that has run for longer is replaced without a delay
FORK_FAILED = 1
MEMORY = "memory"
UNKNOWN_STATUS = 1  # without a zygote, which reports it


@dataclass(slots=True)
class Slot:
    """A place for a worker, with its sockets."""

    number: int
    failures: int = 0
    """Consecutive ends of workers that nobody asked for, or that needed too much memory soon after their start."""
    timer: asyncio.TimerHandle | None = None
    stand_in: WorkerProcess | None = None
    """The worker of another slot that accepts its connections meanwhile."""


class WorkerPool:
    """Keeps one worker in each slot.

    A worker that ends is replaced: at once for the first time, then after a delay that doubles from one to 30 seconds.
    While a slot has no worker that accepts connections, one of another slot accepts them.

    One worker does the work of the pod (`once_per="pod"`). When it has ended, another one does it. So two never do.
    """

    def __init__(
        self,
        zygote: ZygoteHandle,
        sockets: PublicSockets,
        count: int,
        metrics: WorkerMetrics,
        *,
        on_ready: Callable[[WorkerProcess], object],
        on_end: Callable[[WorkerProcess, int], object],
        on_zygote_end: Callable[[], object],
    ) -> None:
        self.slots: list[Slot] = [Slot(number) for number in range(count)]
        self.workers: list[WorkerProcess] = []
        """Those that run, the oldest first."""
        self.is_stopping: bool = False
        """Whether the service stops, so that workers that end are not replaced."""
        self._zygote = zygote
        self._sockets = sockets
        self._metrics = metrics
        self._on_ready = on_ready
        self._on_end = on_end
        self._on_zygote_end = on_zygote_end
        self._pod_worker: WorkerProcess | None = None
        """The worker that does the work of the pod, until it has ended."""
        self._has_zygote = True
        self._ends_starting = False
        self._number = 0
        self._replacing = asyncio.Lock()
        metrics.configured.set(count)
        metrics.ready.set_function(lambda: len(self.ready))
        zygote.socket.setblocking(False)
        asyncio.get_running_loop().add_reader(zygote.socket, self._on_message)

    @property
    def ready(self) -> list[WorkerProcess]:
        """The workers that accept connections."""
        return [worker for worker in self.workers if worker.accepts]

    def start(self, slot: int) -> WorkerProcess:
        """Fork a worker."""
        self._number += 1
        ours, theirs = socket.socketpair()
        worker = WorkerProcess(self._number, slot, ours, on_change=self._on_change, on_link_end=self._on_link_end)
        self.workers.append(worker)
        with theirs, suppress(OSError):  # the zygote has ended, which is noticed next
            send(self._zygote.socket, FORK, self._number, slot, [theirs, *self._sockets.of(slot)])
        return worker

    def keep_all(self) -> None:
        """Start a worker in each slot that has none."""
        for slot in self.slots:
            self._keep(slot)

    def signal(self, worker: WorkerProcess, number: signal.Signals) -> None:
        """Send a signal to a worker, by the zygote: as its parent, it knows whether the worker still runs."""
        if worker.process:
            with suppress(OSError):  # the zygote has ended
                send(self._zygote.socket, SIGNAL, worker.process, number)

    def kill_hanging(self, worker: WorkerProcess) -> None:
        """Kill a worker that does not become ready, does not respond, or does not end in time."""
        worker.hung = True
        self.signal(worker, signal.SIGKILL)

    async def replace(self, worker: WorkerProcess, reason: str) -> None:
        """Start another worker in this slot, and retire this one when the new one is ready. One at a time.

        A new worker that hangs in its start is killed by `kill_hanging`.
        """
        async with self._replacing:
            if self.is_stopping or worker.state is not WorkerState.READY or worker.ended.is_set():
                return
            log.info("replacing worker", worker=worker.slot, reason=reason, pid=worker.process)
            other = self.start(worker.slot)
            await other.settled.wait()
            if other.state is not WorkerState.READY:
                log.error("worker not replaced, because the new one has failed to start", worker=worker.slot)
                return
            self._metrics.restarts.labels(reason).inc()
            if reason == MEMORY:
                self._note_failure(worker)
            if not worker.ended.is_set():
                self.signal(worker, signal.SIGTERM)
                await worker.ended.wait()

    def stop(self) -> None:
        """Replace no worker from now on."""
        self.is_stopping = True
        for slot in self.slots:
            if slot.timer is not None:
                slot.timer.cancel()

    def end_starting(self) -> None:
        """End the workers by a signal, also in `create_app`, where they read no messages."""
        self._ends_starting = True
        for worker in self.workers:
            self.signal(worker, signal.SIGTERM)

    def close(self) -> None:
        """Stop observing the zygote and the workers."""
        asyncio.get_running_loop().remove_reader(self._zygote.socket)
        while self.workers:
            self.workers.pop().end()

    def _on_message(self) -> None:
        while True:
            try:
                message = receive(self._zygote.socket)
            except BlockingIOError:
                return
            if message is None:
                asyncio.get_running_loop().remove_reader(self._zygote.socket)
                self._has_zygote = False
                self.stop()
                self._on_zygote_end()
                for worker in self.workers:
                    if worker.has_closed_link:
                        self._on_link_end(worker)
                return
            self._obey(message)

    def _on_link_end(self, worker: WorkerProcess) -> None:
        """Without a zygote, nobody else reports the end of a worker."""
        if not self._has_zygote:
            asyncio.get_running_loop().call_soon(self._end_unreported, worker)

    def _end_unreported(self, worker: WorkerProcess) -> None:
        if worker in self.workers:
            self._end(worker, UNKNOWN_STATUS)

    def _obey(self, message: Message) -> None:
        if message.kind == FORKED:
            worker = next(worker for worker in self.workers if worker.number == message.first)
            worker.process = message.second
            if not worker.process:
                log.error("worker could not be forked", worker=worker.slot)
                self._end(worker, FORK_FAILED)
            elif self._ends_starting:
                self.signal(worker, signal.SIGTERM)
        elif message.kind == EXITED:
            self._end(next(worker for worker in self.workers if worker.process == message.first), message.second)

    def _on_change(self, worker: WorkerProcess) -> None:
        self._stand_in()
        self._assign_pod_work()
        if worker.state is WorkerState.READY:
            self._on_ready(worker)
        elif not self.is_stopping and self._keep(self.slots[worker.slot]):
            self._metrics.restarts.labels("retired").inc()

    def _end(self, worker: WorkerProcess, status: int) -> None:
        worker.end()
        self.workers.remove(worker)
        self._metrics.totals.retire(worker.label, worker.snapshot)
        slot = self.slots[worker.slot]
        is_expected = self.is_stopping or worker.state is WorkerState.RETIRING
        if not is_expected:
            self._note_failure(worker)
        self._stand_in()
        self._assign_pod_work()
        self._on_end(worker, status)  # which may stop the service
        if is_expected:
            log.info("worker ended", worker=worker.slot, pid=worker.process, status=status)
            return
        delay = self._delay(slot)
        facts = {"restart_in_seconds": delay} if self._keep(slot, delay) else {}
        if facts:
            self._metrics.restarts.labels("hung" if worker.hung else "died").inc()
        log.error("worker ended unexpectedly", worker=worker.slot, pid=worker.process, status=status, **facts)

    def is_old_enough(self, worker: WorkerProcess) -> bool:
        """Whether it may be replaced because of its memory. New workers may need too much, too: then with backoff."""
        return time.monotonic() - worker.started >= self._delay(self.slots[worker.slot])

    def _note_failure(self, worker: WorkerProcess) -> None:
        slot = self.slots[worker.slot]
        is_stable = time.monotonic() - worker.started > STABLE_SECONDS
        slot.failures = 1 if is_stable else slot.failures + 1

    def _delay(self, slot: Slot) -> float:
        if slot.failures <= 1:
            return 0.0
        return min(FIRST_DELAY_SECONDS * 2.0 ** min(slot.failures - 2, 30), MAX_DELAY_SECONDS)

    def _keep(self, slot: Slot, delay: float = 0.0) -> bool:
        """Start a worker after the delay, unless the slot has one that does not retire. Returns whether one starts."""
        has_one = any(w.slot == slot.number and w.state is not WorkerState.RETIRING for w in self.workers)
        if self.is_stopping or has_one or slot.timer is not None:
            return False

        def start() -> None:
            slot.timer = None
            self.start(slot.number)

        if delay:
            slot.timer = asyncio.get_running_loop().call_later(delay, start)
        else:
            start()
        return True

    def _assign_pod_work(self) -> None:
        """Give the work of the pod to the first worker that is ready, if none has it."""
        if self._pod_worker not in self.workers and not self.is_stopping and self.ready:
            self._pod_worker = min(self.ready, key=lambda worker: worker.slot)
            self._pod_worker.tell(POD_WORK)

    def _stand_in(self) -> None:
        """Let ready workers accept the connections of slots without one."""
        ready = self.ready
        for slot in self.slots:
            stand_in = slot.stand_in if slot.stand_in in ready else None
            if any(worker.slot == slot.number for worker in ready):
                if stand_in is not None:
                    stand_in.tell(UNLISTEN, slot.number)
                stand_in = None
            elif stand_in is None and ready and not self.is_stopping and not self._sockets.are_shared:
                stand_in = ready[slot.number % len(ready)]
                stand_in.tell(LISTEN, slot.number, self._sockets.of(slot.number))
            slot.stand_in = stand_in
