"""A worker: a process that serves requests on the sockets of its slot, and reports to the supervisor."""

import asyncio
import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import structlog
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from ..app import App
from ..http.listener import Listener
from ..operations.access import WAS_ALLOWED
from ..server import Server
from ..settings import ChassisSettings, load_settings
from ..signals import stop_signals
from ..telemetry import Telemetry
from ..threads import in_thread
from ..watchdog import Watchdog
from ..worker_slot import WorkerSlot
from .messages import (
    CONNECTION,
    DRAIN,
    LISTEN,
    METRICS,
    POD_WORK,
    READY,
    RETIRING,
    STOP,
    UNLISTEN,
    Message,
    receive,
    send,
)
from .snapshot import encode_snapshot
from .zygote import Assignment

log: FilteringBoundLogger = structlog.get_logger()

METRICS_PATH = "/chassis/snapshot"
"""The path of the metrics in the admin application of a worker, for the supervisor only."""
PEER_FIELD = b"chassis-peer"
"""A request header with the two addresses of the connection to the admin port, if the client may use it."""
# Clients that send a request on a kept connection at least that often lose none when a worker retires.
MIN_RETIRE_SECONDS = 1.0
LAST_METRICS_SECONDS = 1.0


def run_worker(
    assignment: Assignment, create_app: Callable[[ChassisSettings], App], settings: type[ChassisSettings]
) -> int:
    """Serve until the supervisor or a signal stops the worker. Returns the exit status of the process.

    Settings are read again, because a secret file may have changed since the service has started.
    """
    WorkerSlot.number = assignment.slot
    app = create_app(load_settings(settings, warns=False))
    server = WorkerServer(app, assignment)
    watchdog = Watchdog(app.telemetry)
    gc.freeze()
    gc.enable()
    status = server.run(watchdog)
    with suppress(OSError):  # the supervisor has ended, or is too slow
        send_last_metrics(assignment.link, app.telemetry, server.snapshot)
    return status


def send_last_metrics(link: socket.socket, telemetry: Telemetry, snapshot: bytes) -> None:
    """Send a snapshot of the metrics at the end of the process, so that nothing that was counted is lost.

    `snapshot` is an earlier one, for collectors that fail without the resources of the service.
    """
    try:
        snapshot = encode_snapshot(telemetry.metrics.registry, telemetry.metrics.merges)
    except Exception:
        log.warning("last metrics are incomplete, because a collector has failed", exc_info=True)
        telemetry.logs.writer.flush()
    if snapshot:
        link.settimeout(LAST_METRICS_SECONDS)
        send(link, METRICS, len(snapshot))
        link.sendall(snapshot)


class WorkerServer(Server):
    """Runs an `App` in a worker.

    Its public port accepts connections when the app is ready. Until then they wait, or another worker accepts them. Its
    admin application serves connections that the supervisor makes.

    There are two ways to stop. With the service, it shuts down as a single process does. It retires when it alone gets
    SIGTERM: it accepts no connection from then on, since those that wait are for its replacement. Signals after the
    first one change nothing: the supervisor kills workers that hang.
    """

    def __init__(self, app: App, assignment: Assignment) -> None:
        super().__init__(app)
        self._link = assignment.link
        self._sockets = assignment.sockets
        self.snapshot: bytes = b""
        """The metrics after the last request, before the resources are closed."""
        self._is_retiring = False
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._connecting: asyncio.Task[None] | None = None

    async def startup(self) -> None:
        """Open the app's resources, and then accept connections."""
        began = time.monotonic()
        public, admin = self._listeners
        await admin.start()
        self._link.setblocking(False)
        asyncio.get_running_loop().add_reader(self._link, self._on_message)
        self._connecting = asyncio.create_task(self._connect(), name="supervisor")
        if await self._open():
            await public.start()
            log.info("worker ready", pid=os.getpid(), seconds=round(time.monotonic() - began, 3))
            self._started.set()
            self._report(READY)

    def _listen(self) -> list[Listener]:
        public = self._ports.public_state(self.app.public)
        admin = self._ports.admin_state()
        admin.app = SupervisorRequests(admin.app, self.app.telemetry)
        return [Listener("", self.port, public, sockets=self._sockets), Listener("", 0, admin, sockets=())]

    async def _drain(self) -> None:
        if not self._is_retiring or not self._started.is_set():
            await super()._drain()
            return
        public, *_ = self._listeners
        public.stop_listening()
        self._report(RETIRING)
        seconds = max(self.drain_seconds, MIN_RETIRE_SECONDS)
        log.info("worker retiring", seconds=seconds, shutdown_seconds=self.shutdown_seconds)
        self.app.begin_draining()
        for listener in self._listeners:
            listener.drain()
        # Clients that reuse their connection learn from the next response that it ends.
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await public.state.wait_until_idle()

    async def _finish_tasks(self) -> None:
        await super()._finish_tasks()
        with suppress(Exception):  # of a collector; scrapes have reported it
            self.snapshot = await snapshot_of(self.app.telemetry)

    def _stop_signals(self, loop: asyncio.AbstractEventLoop) -> AbstractContextManager[None]:
        return stop_signals(lambda number: self._on_signal(number, loop), lambda _number: None)

    def _on_signal(self, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._is_retiring = number == signal.SIGTERM
        super()._on_signal(number, loop)

    def _on_message(self) -> None:
        """Do what the supervisor says."""
        while True:
            try:
                message = receive(self._link)
            except BlockingIOError:
                return
            if message is None:
                asyncio.get_running_loop().remove_reader(self._link)
                log.error("the supervisor has ended; stopping")
                self._stop_with_service(drain=False)
                return
            if message.kind in (DRAIN, STOP):
                self._stop_with_service(drain=message.kind == DRAIN)
            else:
                self._messages.put_nowait(message)

    def _stop_with_service(self, *, drain: bool) -> None:
        self._is_signalled = True
        self._end_in_time(drain=drain)
        self.stop(drain=drain)

    async def _connect(self) -> None:
        """Serve and listen where the supervisor says, in the order of its messages."""
        while True:
            message = await self._messages.get()
            try:
                await self._obey(message)
            except OSError as error:  # such as too many open files
                log.error("request of the supervisor failed", error=str(error))

    async def _obey(self, message: Message) -> None:
        public, admin = self._listeners
        if message.kind == CONNECTION:
            for sock in message.sockets:  # none if the process has too many open files
                await admin.accept(sock)
        elif message.kind == UNLISTEN:
            public.stop_listening_also(message.first)
        elif message.kind == LISTEN and not self._stopping.is_set():
            await public.listen_also(message.first, message.sockets)
        elif message.kind == POD_WORK and not self._stopping.is_set():
            self.app.begin_pod_work()
        else:
            for sock in message.sockets:
                sock.close()

    def _report(self, kind: bytes) -> None:
        with suppress(OSError):  # the supervisor has ended, which is noticed by the event loop
            send(self._link, kind)


class SupervisorRequests:
    """The admin application of a worker, as the supervisor sees it: with the client of the admin port, and metrics."""

    def __init__(self, app: ASGIApp, telemetry: Telemetry) -> None:
        self._app = app
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = next((value for name, value in scope["headers"] if name == PEER_FIELD), None)
        if peer is not None:
            host, port, own_host, own_port = peer.decode("latin-1").split(" ")
            scope["client"], scope["server"] = (host, int(port)), (own_host, int(own_port))
            scope[WAS_ALLOWED] = True
            scope["headers"] = [(name, value) for name, value in scope["headers"] if name != PEER_FIELD]
        elif scope["path"] == METRICS_PATH:
            await self._send_snapshot(scope, receive, send)
            return
        await self._app(scope, receive, send)

    async def _send_snapshot(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Response(await snapshot_of(self._telemetry))(scope, receive, send)


async def snapshot_of(telemetry: Telemetry) -> bytes:
    """The present metrics, which a thread collects."""
    telemetry.observer.observe()
    metrics = telemetry.metrics
    encoding = in_thread(lambda: encode_snapshot(metrics.registry, metrics.merges), name="metrics")
    return await asyncio.wrap_future(encoding)
