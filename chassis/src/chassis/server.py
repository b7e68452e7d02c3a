"""The server instance: listens, accepts, dispatches, sends, and ends in order."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import structlog
import uvicorn

from .app import FLUSH_SECONDS, App
from .health import State
from .http.limits import Limits, within_open_files
from .http.protocol import HttpProtocol

log = structlog.get_logger()

SIGNALS = (signal.SIGINT, signal.SIGTERM)
BACKLOG = 2048
LAST_MOMENT_SECONDS = 0.5
# How long a thread that computes may go on while the event loop wants to: it wants to for each of its callbacks, and
# with Python's 5 ms one handler that computes leaves the others a quarter of their requests a second on one core, and
# with this two fifths.
SWITCH_SECONDS = 0.0005
CLOSE = (b"connection", b"close")


class Server:
    """Runs an `App` as its settings say; `host` and `port` replace theirs, for tests.

    The end: at SIGTERM readiness turns 503 while requests are still served, for `drain_seconds`, with
    `Connection: close`; then nothing new is accepted and requests and background tasks under way get
    `shutdown_seconds` to finish; resources are left, telemetry is flushed, and the status is 0. SIGINT,
    from the keyboard, skips the first part. A second signal ends the process at once.

    In tests, hold it as an object: `async with Server(app, port=0) as server: server.port`.
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
        self.host = settings.host if host is None else host
        self.port = settings.port if port is None else port
        self.admin_port = settings.admin_port
        self.drain_seconds = settings.drain_seconds
        self.shutdown_seconds = settings.shutdown_seconds
        self._keep_alive_seconds = settings.keep_alive_seconds
        self._limits = Limits(
            max_connections=settings.max_connections,
            max_target_bytes=settings.max_target_bytes,
            max_head_bytes=settings.max_head_bytes,
            head_seconds=settings.head_seconds,
            body_seconds=settings.body_seconds,
            min_bytes_per_second=settings.min_bytes_per_second,
        )
        self._trusted_proxies = settings.trusted_proxies
        self._stopping = asyncio.Event()
        self._drains = True
        self._started = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    def run(self) -> int:
        """Serve until a signal comes; returns the process's exit status."""
        self.app.telemetry.install()
        self._limits = within_open_files(self._limits)
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            with asyncio.Runner(loop_factory=_loop_factory()) as runner:
                runner.run(self._run_until_signal())
        except ListenError as error:
            log.error("cannot listen", host=self.host, port=self.port, admin_port=self.admin_port, error=str(error))
            return 1
        except Exception:
            log.exception("the service failed to start or to end")
            return 1
        finally:
            self.app.telemetry.logs.writer.flush()
        return 0

    async def serve(self) -> None:
        """Start, serve until `stop` is called, and end in order."""
        listeners = self._listen()
        log.info("listening", host=self.host, port=self.port, admin_port=self.admin_port, pid=os.getpid())
        # The admin part answers while the rest still starts, so that a slow start isn't a dead process.
        tasks = [asyncio.create_task(one.serve(), name=f"listener {one.port}") for one in listeners]
        try:
            await self._serve_app(listeners)
        finally:
            for listener in listeners:
                listener.should_exit = True
            await asyncio.gather(*tasks)
            await self.app.telemetry.shutdown(FLUSH_SECONDS)

    def stop(self, *, drain: bool = True) -> None:
        """Begin the end; `drain` keeps serving for `drain_seconds` first."""
        self._drains = self._drains and drain
        self._stopping.set()

    async def _serve_app(self, listeners: list["Listener"]) -> None:
        # Wanted before and after the start: a signal during a slow start must not wait for its end.
        stopping = asyncio.create_task(self._stopping.wait())
        starting = asyncio.create_task(self._hold_app(listeners))
        await asyncio.wait({stopping, starting}, return_when=asyncio.FIRST_COMPLETED)
        if not self._started.is_set() and not starting.done():
            log.info("stopped while starting")
            starting.cancel("stopped while starting")
        try:
            await starting
        except asyncio.CancelledError:
            if not stopping.done():
                raise
        finally:
            stopping.cancel()

    async def _hold_app(self, listeners: list["Listener"]) -> None:
        began = time.monotonic()
        stop_by = began

        def remaining_seconds() -> float:  # what the requests leave of the time is the background tasks' share
            return max(0.0, stop_by - time.monotonic())

        async with self.app.lifespan(remaining_seconds):
            log.info("ready", seconds=round(time.monotonic() - began, 3))
            self._started.set()
            await self._stopping.wait()
            self.app.health.state = State.DRAINING
            drain_seconds = self.drain_seconds if self._drains else 0.0
            log.info("draining", seconds=drain_seconds, shutdown_seconds=self.shutdown_seconds)
            for listener in listeners:
                listener.close_after_answers()
            await asyncio.sleep(drain_seconds)
            stop_by = time.monotonic() + self.shutdown_seconds
            public = listeners[0]
            public.should_exit = True
            await public.finished.wait()
        log.info("stopped")

    def _listen(self) -> list["Listener"]:
        app = self.app
        if self.admin_port is None:
            only = self._listener(app.dispatch, self.port)
            self.port = only.port
            return [only]
        public = self._listener(app.public, self.port)
        try:
            admin = self._listener(app.admin, self.admin_port)
        except ListenError:
            public.socket.close()
            raise
        self.port, self.admin_port = public.port, admin.port
        return [public, admin]

    def _listener(self, app: Any, port: int) -> "Listener":
        config = uvicorn.Config(
            app,
            # Declared as a class, but only called.
            http=partial(HttpProtocol, limits=self._limits, refusals=self.app.rejections),  # type: ignore[arg-type]
            ws="websockets-sansio" if self.app.has_websockets else "none",
            lifespan="off",
            interface="asgi3",
            backlog=BACKLOG,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=bool(self._trusted_proxies),
            forwarded_allow_ips=self._trusted_proxies,
            timeout_keep_alive=self._keep_alive_seconds,
            # None waits for ever, 0 not at all. Declared as whole seconds, but only handed to asyncio.
            timeout_graceful_shutdown=max(0.1, self.shutdown_seconds),  # type: ignore[arg-type]
            # Without it a pipelined request would begin with the context variables of the one before.
            reset_contextvars=True,
        )
        return Listener(config, _bind(self.host, port))

    async def _run_until_signal(self) -> None:
        with self._signals(asyncio.get_running_loop()):
            await self.serve()

    @contextmanager
    def _signals(self, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
        # signal.signal rather than the loop's handlers: it also works while blocking code holds the loop.
        seen: list[int] = []

        def handle(number: int, _frame: FrameType | None) -> None:
            seen.append(number)
            if len(seen) > 1:
                # Not even a flush: whoever reads our output may be why the first signal isn't enough.
                os._exit(128 + number)
            loop.call_soon_threadsafe(lambda: self.stop(drain=number == signal.SIGTERM))

        before = {number: signal.signal(number, handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

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


class Listener(uvicorn.Server):
    """A port: uvicorn's server without its signals, held as an object."""

    def __init__(self, config: uvicorn.Config, sock: socket.socket) -> None:
        super().__init__(config)
        self.socket = sock
        self.port: int = sock.getsockname()[1]
        self.finished = asyncio.Event()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept and answer until `should_exit`, then let requests under way finish."""
        try:
            await super().serve(sockets or [self.socket])
            # uvicorn cancels what is left when the time is up and leaves without waiting for its last words.
            if self.server_state.tasks:
                await asyncio.wait(self.server_state.tasks, timeout=1.0)
            await self._let_go()
        finally:
            self.finished.set()

    async def _let_go(self) -> None:
        """Give clients that still send a moment to take their last answer; the event loop can't end before they go."""
        loop = asyncio.get_running_loop()
        until = loop.time() + LAST_MOMENT_SECONDS
        connections: Any = self.server_state.connections
        while connections and loop.time() < until:  # noqa: ASYNC110 - nothing tells when one has gone
            await asyncio.sleep(0.02)
        for connection in list(connections):
            if connection.transport is not None:
                connection.transport.abort()
        await asyncio.sleep(0)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals are the server instance's business."""
        yield

    def close_after_answers(self) -> None:
        """Ask clients to leave: `Connection: close` on each answer from now on, also to requests under way."""
        self.config.encoded_headers.append(CLOSE)
        self.server_state.default_headers.append(CLOSE)
        # uvicorn replaces that list every second, and a request under way keeps the one that it began with.
        for connection in self.server_state.connections:
            if isinstance(connection, HttpProtocol) and connection.cycle and not connection.cycle.response_started:
                connection.cycle.keep_alive = False


class ListenError(OSError):
    """An address can't be bound."""


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(BACKLOG)  # from here on clients wait rather than being refused
    except OSError as error:
        sock.close()
        raise ListenError(f"{host}:{port}: {error.strerror}") from error
    sock.setblocking(False)
    return sock


def _loop_factory() -> Any:
    if sys.platform == "win32":
        return None
    import uvloop

    return uvloop.new_event_loop
