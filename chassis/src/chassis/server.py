"""The server: starts an `App`, serves it, and shuts it down gracefully."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager

import structlog
from structlog.typing import FilteringBoundLogger

from .app import FLUSH_SECONDS, App
from .http.errors import ListenError
from .http.listener import Listener
from .server_ports import LOOPBACK, ServerPorts
from .signals import stop_signals
from .watchdog import LAST_LINES_SECONDS, Watchdog

log: FilteringBoundLogger = structlog.get_logger()

END_SECONDS = 10.0
"""The time for all steps after `drain_seconds` and `shutdown_seconds`. The process ends within the sum of the three."""
EXIT_SECONDS = 2.0  # for threads, `atexit` functions and child processes, after the shutdown is complete
# The interpreter's switch interval: a computing thread can block the event loop for this long at a time. Python's
# default is 5 ms, which slows down all other requests.
SWITCH_SECONDS = 0.0005


class Server:
    """Runs an `App` with its settings. For tests, `host` and `port` replace those of the settings, and a Unix socket.

    Graceful shutdown: at SIGTERM, readiness turns to 503. For `drain_seconds`, requests are still served, with
    `Connection: close`. Then no new connections are accepted, and requests and background tasks in flight get
    `shutdown_seconds` to finish. Finally resources are closed, telemetry is flushed, and the exit status is 0.

    SIGINT, from the keyboard, skips the drain. A second signal ends the process at once. Each step has a time limit,
    and a step that fails does not prevent the next ones.

    In tests, use it as a context manager: `async with Server(app, port=0) as server: server.port`.
    """

    def __init__(
        self,
        app: App,
        *,
        host: str | None = None,
        port: int | None = None,
    ) -> None:
        settings = app.settings
        self.app = app
        self.drain_seconds: float = settings.drain_seconds
        self.shutdown_seconds: float = settings.shutdown_seconds
        self._ports = ServerPorts(app, host, port)
        self._drains = True
        self._stop_by = 0.0
        self._stopping = asyncio.Event()
        self._started = asyncio.Event()
        self._watchdog: Watchdog | None = None
        self._is_ending = False
        self._is_signalled = False
        self._listeners: list[Listener] = []
        self._starting: asyncio.Task[object] | None = None
        self._serving: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The number of the public port; when it listens, the one that was bound."""
        return self._ports.port

    @property
    def admin_port(self) -> int | None:
        """The number of the admin port; None if the public port serves both."""
        return self._ports.admin_port

    def run(self, watchdog: Watchdog | None = None) -> int:
        """Serve until a signal arrives. Returns the exit status of the process.

        If the shutdown hangs, `watchdog` ends the process `END_SECONDS` after the time for drain and shutdown. If the
        interpreter cannot exit after a complete shutdown, it ends the process after `EXIT_SECONDS`.
        """
        self.app.telemetry.install()
        self._watchdog = watchdog
        self._ports.limit_open_files()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self._serve_until_signal())
        except ListenError as error:
            log.error("cannot listen", **self._ports.log_facts, error=str(error))
            return 1
        except Exception:
            log.exception("service failed to start or stop")
            return 1
        finally:
            self.app.telemetry.logs.writer.flush()
        return 0

    async def serve(self) -> None:
        """Start, serve until `stop` is called, and shut down."""
        self._listeners = self._listen()
        try:
            await self.startup()
            await self._stopping.wait()
        except asyncio.CancelledError:
            self._drains = False
            raise
        finally:
            await self.shutdown()

    def stop(self, *, drain: bool = True) -> None:
        """Begin graceful shutdown. With `drain`, requests are served for `drain_seconds` first. May be called again."""
        self._drains = self._drains and drain
        self._stopping.set()
        if self._starting is not None:
            log.info("stopped while starting")
            self._starting.cancel("stopped while starting")
            self._starting = None

    async def startup(self) -> None:
        """Listen, and open the app's resources. Returns early if `stop` is called meanwhile."""
        began = time.monotonic()
        # Liveness responds during the rest of the start, so that Kubernetes does not restart a pod that starts slowly.
        for listener in self._listeners:
            await listener.start()
        addresses = [address for listener in self._listeners for address in listener.addresses]
        log.info("listening", **self._ports.log_facts, addresses=addresses, pid=os.getpid())
        if await self._open():
            log.info("ready", seconds=round(time.monotonic() - began, 3))
            if self.app.settings.development:
                log.info("console", url=f"http://{LOOPBACK}:{self.admin_port}/")
            self._started.set()

    async def _open(self) -> bool:
        """Open the app's resources; False if `stop` is called meanwhile."""
        if self._stopping.is_set():
            log.info("stopped while starting")
            return False
        self._starting = task = asyncio.current_task()
        try:
            await self.app.open()
        except asyncio.CancelledError:
            # A cancellation by `stop` ends here. Any other cancellation is raised again.
            if task is None or not self._stopping.is_set() or task.uncancel() > 0:
                raise
            return False
        finally:
            self._starting = None
        return True

    async def shutdown(self) -> None:
        """Shut down gracefully; without a drain if the start was not completed.

        If a step fails or is interrupted, the next steps still run.
        """
        self._end_in_time(drain=self._drains)
        self._stop_by = time.monotonic() + self.shutdown_seconds
        steps: list[Callable[[], Awaitable[None]]] = [
            self._drain,
            self._finish_requests,
            self._finish_tasks,
            self.app.close,
            self._close_ports,
            self._flush,
        ]
        failures: list[BaseException] = []
        for step in steps:
            try:
                await step()
            except GeneratorExit:  # the event loop was closed
                raise
            except BaseException as error:  # noqa: BLE001 - raised below
                failures.append(error)
        if failures:
            raise failures[0]

    async def _drain(self) -> None:
        # 1. Readiness is 503, so that load balancers stop routing to this instance. Streams and consumers may end.
        self.app.begin_draining()
        if not self._started.is_set():
            return
        drain_seconds = self.drain_seconds if self._drains else 0.0
        log.info("draining", seconds=drain_seconds, shutdown_seconds=self.shutdown_seconds)

        # 2. Every response has `Connection: close`, so that clients reconnect, to another instance.
        for listener in self._listeners:
            listener.drain()

        # 3. Load balancers need time to notice. Until then, new connections and requests are served.
        await asyncio.sleep(drain_seconds)

    async def _finish_requests(self) -> None:
        # 4. No new connections are accepted. Idle connections are closed.
        self._stop_by = time.monotonic() + self.shutdown_seconds
        self.app.tasks.stopping.set()
        public = self._listeners[0]
        public.stop_accepting()
        self.app.load_shedder.hurry()

        # 5. Requests in flight finish. Requests that take longer than `shutdown_seconds` are cancelled and get 503.
        await public.close(self._remaining_seconds())

    async def _finish_tasks(self) -> None:
        # 6. Background tasks get the rest of that time, and are then cancelled.
        await self.app.tasks.stop(self._remaining_seconds())

        # 7. Resources are closed next, the last one first. They may hang, so the export of spans starts before.
        self.app.telemetry.begin_flush()

    async def _close_ports(self) -> None:
        # 8. Health and metrics were served until here. If step 5 was interrupted, the public port is closed here too.
        for listener in self._listeners:
            await listener.close(self._remaining_seconds())

    async def _flush(self) -> None:
        # 9. The last spans, metrics and log lines are sent.
        if self._started.is_set():
            log.info("stopped")
        await self.app.telemetry.shutdown(FLUSH_SECONDS)

    def _end_in_time(self, *, drain: bool) -> None:
        """Limit the time of the shutdown from now on. May be called by a signal handler."""
        if self._watchdog is not None and not self._is_ending:
            self._is_ending = True
            seconds = (self.drain_seconds if drain else 0.0) + self.shutdown_seconds + END_SECONDS
            status = 0 if self._is_signalled or self._stopping.is_set() else 1  # else the start has failed
            self._watchdog.end_within(seconds - LAST_LINES_SECONDS, status=status, flush_seconds=FLUSH_SECONDS)

    def _exit_in_time(self, status: int) -> None:
        """The shutdown is complete. Threads, child processes and functions of `atexit` may still hang."""
        if self._watchdog is not None:
            self._watchdog.end_within(EXIT_SECONDS, status=status)

    def _remaining_seconds(self) -> float:
        return max(0.0, self._stop_by - time.monotonic())

    def _listen(self) -> list[Listener]:
        return self._ports.listen()

    async def _serve_until_signal(self) -> None:
        loop = asyncio.get_running_loop()
        if self._watchdog is not None:
            self._watchdog.watch(loop)
        status = 1
        try:
            with self._stop_signals(loop):
                await self.serve()
            status = 0
        finally:
            self._exit_in_time(status)

    def _stop_signals(self, loop: asyncio.AbstractEventLoop) -> AbstractContextManager[None]:
        return stop_signals(lambda number: self._on_signal(number, loop))

    def _on_signal(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        drain = number == signal.SIGTERM
        self._is_signalled = True
        self._end_in_time(drain=drain)
        loop.call_soon_threadsafe(lambda: self.stop(drain=drain))

    async def __aenter__(self) -> "Server":
        self._serving = asyncio.create_task(self.serve(), name="server")
        started = asyncio.create_task(self._started.wait())
        await asyncio.wait({self._serving, started}, return_when=asyncio.FIRST_COMPLETED)
        started.cancel()
        if self._serving.done():
            await self._serving
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stop(drain=False)
        if self._serving is not None:
            await self._serving


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Makes the event loop of the service; None for asyncio's own."""
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
