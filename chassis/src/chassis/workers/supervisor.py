"""The supervisor: the first process of a service with several workers. It has the admin port and serves no requests."""

import asyncio
import os
import signal
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import structlog
from structlog.typing import FilteringBoundLogger

from ..http.limits import within_open_files
from ..http.listener import Listener
from ..http.port_state import PortState
from ..operations.access import OperatorAccess
from ..operations.operations import token_of
from ..server import END_SECONDS
from ..settings import ChassisSettings
from ..signals import end_at_once, stop_signals
from ..telemetry.logs import Logs
from ..wiring import make_connection_limits, make_reloading
from .admin_port import AdminPort
from .messages import DRAIN, STOP
from .metrics import WorkerMetrics
from .pool import MEMORY, WorkerPool
from .public_sockets import PublicSockets
from .worker import MIN_RETIRE_SECONDS
from .worker_process import WorkerProcess, WorkerState
from .zygote import ZygoteHandle

log: FilteringBoundLogger = structlog.get_logger()

POLL_SECONDS = 5.0
HANG_SECONDS = 30.0
RETIRED_SECONDS = END_SECONDS  # for a worker that was replaced, after its drain and shutdown
ADMIN_CLOSE_SECONDS = 0.5


class Supervisor:
    """Starts the workers, replaces those that end, and stops all of them when a signal arrives.

    The first worker starts alone, and the others when it is ready. So a service that cannot start ends with one error,
    and with the exit status of that worker. At SIGTERM, all workers drain and shut down within the time of one process,
    and the exit status is 0. SIGINT skips the drain, and a second signal ends all processes at once. At SIGHUP, the
    workers are replaced one after the other.

    Secret files that change are read again here, too. They may change the token of operators, the log level and the
    limits of connections to the admin port. At SIGHUP, all other settings that were read are used by the supervisor
    as well, as by the new workers. Only the ports and the number of workers stay.

    Make it while an event loop runs. Binds the ports, and raises `ListenError`.
    """

    def __init__(self, settings: ChassisSettings, count: int, zygote: ZygoteHandle, logs: Logs) -> None:
        self._settings = settings
        self._count = count
        self._zygote = zygote
        self._logs = logs
        self._reloading = make_reloading(settings, self._use_settings)
        self._access = OperatorAccess(token_of(settings))
        self._began = time.monotonic()
        self._status = 0
        self._drains = True
        self._has_been_ready = False
        self._stopping = asyncio.Event()
        self._without_workers = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        metrics = WorkerMetrics()
        self._sockets = PublicSockets(settings, count)
        self._pool = WorkerPool(
            zygote,
            self._sockets,
            count,
            metrics,
            on_ready=self._on_ready,
            on_end=self._on_end,
            on_zygote_end=self._on_zygote_end,
        )
        self._admin_port = AdminPort(self._pool, metrics, self._access, logs.writer)
        self._admin = self._listen()

    async def run(self) -> int:
        """Serve until a signal arrives. Returns the exit status."""
        with self._signals():  # before the first line, after which whoever reads it may stop the service
            await self._admin.start()
            self._log_ports()
            self._pool.start(0)
            self._run(self._watch(), "watch workers")
            if self._reloading is not None:
                self._run(self._reloading.run(), "settings watch")
            await self._stopping.wait()
            await self._shut_down()
        return self._status

    def _log_ports(self) -> None:
        settings = self._settings
        addresses = [*self._sockets.addresses, *self._admin.addresses]
        public: dict[str, object] = {"host": settings.host, "port": self._sockets.port}
        if settings.unix_socket is not None:
            public = {"unix_socket": settings.unix_socket}
        facts = {**public, "admin_port": self._admin.port, "addresses": addresses}
        log.info("listening", **facts, pid=os.getpid(), workers=self._count)

    def _listen(self) -> Listener:
        settings = self._settings
        state = PortState(
            self._admin_port,
            limits=within_open_files(make_connection_limits(settings)),
            keep_alive_seconds=settings.keep_alive_seconds,
        )
        return Listener(settings.host, settings.admin_port or 0, state)

    async def _use_settings(self, before: ChassisSettings, after: ChassisSettings) -> None:
        """Use settings that have changed, as workers do."""
        self._settings = after
        self._access.set_token(token_of(after))
        if before.log_level != after.log_level:
            self._logs.set_level(after.log_level)
        port = self._admin.state
        port.limits = within_open_files(make_connection_limits(after))
        port.keep_alive_seconds = after.keep_alive_seconds

    def _run(self, work: Coroutine[Any, Any, None], name: str) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Signals.

    @contextmanager
    def _signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()

        def reload(_number: int, _frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(lambda: self._run(self._replace_all(), "replace workers"))

        previous = signal.signal(signal.SIGHUP, reload)
        try:
            with stop_signals(
                lambda number: loop.call_soon_threadsafe(lambda: self._stop(drain=number == signal.SIGTERM)),
                self._end_at_once,
            ):
                yield
        finally:
            signal.signal(signal.SIGHUP, previous)

    def _end_at_once(self, number: int) -> None:
        self._zygote.kill_group()
        end_at_once(number)

    def _stop(self, *, drain: bool = False, status: int = 0) -> None:
        """Stop the service; the first call decides on the exit status."""
        if not self._stopping.is_set():
            self._drains = drain and self._has_been_ready
            self._status = status
            self._stopping.set()

    async def _replace_all(self) -> None:
        if self._reloading is not None:
            await self._reloading.refresh()
            await self._use_settings(self._settings, self._reloading.after_restart())
        for worker in self._pool.ready:
            await self._pool.replace(worker, "reload")

    # Events of the pool.

    def _on_ready(self, worker: WorkerProcess) -> None:
        self._run(self._admin_port.repeat_changes(worker), "repeat changes")
        if not self._has_been_ready:
            self._has_been_ready = True
            self._pool.keep_all()
        if len(self._pool.ready) == self._count and self._began:
            log.info("ready", seconds=round(time.monotonic() - self._began, 3), workers=self._count)
            self._began = 0.0

    def _on_end(self, _worker: WorkerProcess, status: int) -> None:
        if not self._has_been_ready and not self._stopping.is_set():
            self._pool.stop()
            self._stop(status=status if status > 0 else 1)
        elif self._stopping.is_set() and status:
            self._status = self._status or 1
        if not self._pool.workers:
            self._without_workers.set()

    def _on_zygote_end(self) -> None:
        if not self._stopping.is_set():
            log.error("the zygote has ended; stopping, because no worker can be replaced")
            self._stop(status=1)

    # Watching and stopping.

    async def _watch(self) -> None:
        """Keep the metrics of the workers, and replace those that hang or need too much memory."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            reap_orphans()
            started = [worker for worker in self._pool.workers if worker.state is not WorkerState.STARTING]
            await asyncio.gather(*(worker.pull_snapshot() for worker in started))
            self._kill_hanging()
            for worker in self._pool.ready:
                limit, size = self._settings.worker_max_memory_bytes, resident_bytes(worker.process)
                if limit is not None and size > limit and self._pool.is_old_enough(worker):
                    log.warning("worker needs too much memory", worker=worker.slot, bytes=size, max_bytes=limit)
                    self._run(self._pool.replace(worker, MEMORY), "replace worker")

    def _kill_hanging(self) -> None:
        """Kill workers that do not respond, those that start for too long, and those that do not end in time.

        The first start of the service has no limit here, as with one process: the platform has one.
        """
        settings, now = self._settings, time.monotonic()
        retire_seconds = max(settings.drain_seconds, MIN_RETIRE_SECONDS) + settings.shutdown_seconds + RETIRED_SECONDS
        for worker in self._pool.workers:
            since, max_seconds = {
                WorkerState.STARTING: (worker.started, settings.worker_start_seconds),
                WorkerState.READY: (worker.responded, HANG_SECONDS),
                WorkerState.RETIRING: (worker.retired, retire_seconds),
            }[worker.state]
            seconds = round(now - since, 1)
            if seconds > max_seconds and worker.process and self._has_been_ready and not worker.hung:
                log.error(
                    "worker hangs; killing it", worker=worker.slot, state=str(worker.state), silent_seconds=seconds
                )
                self._pool.kill_hanging(worker)

    async def _shut_down(self) -> None:
        settings = self._settings
        drain_seconds = settings.drain_seconds if self._drains else 0.0
        self._pool.stop()
        if self._has_been_ready:
            log.info("draining", seconds=drain_seconds, shutdown_seconds=settings.shutdown_seconds)
        for worker in self._pool.workers:
            worker.tell(DRAIN if self._drains else STOP)
        if not self._has_been_ready:
            self._pool.end_starting()
        # The workers have them, too. The port is closed when the last one has closed them.
        self._sockets.close()
        if self._pool.workers:
            with suppress(TimeoutError):
                async with asyncio.timeout(drain_seconds + settings.shutdown_seconds + END_SECONDS):
                    await self._without_workers.wait()
        if self._pool.workers:
            log.warning("shutdown hangs; killing the workers", workers=[one.slot for one in self._pool.workers])
        self._pool.close()
        await self._admin.close(ADMIN_CLOSE_SECONDS)
        if self._has_been_ready:
            log.info("stopped")


def resident_bytes(process: int) -> int:
    """The resident memory of a process; 0 if it is unknown."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def reap_orphans() -> None:
    """As the first process of a container, collect children of workers that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
