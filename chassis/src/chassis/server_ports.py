"""The ports of a server: where it listens, and the limits of the connections."""

import structlog
from starlette.types import ASGIApp
from structlog.typing import FilteringBoundLogger

from .app import App
from .http.errors import ListenError
from .http.forwarded import ForwardedMiddleware
from .http.limits import within_open_files
from .http.listener import Listener
from .http.port_state import PortState
from .settings import ChassisSettings
from .wiring import make_connection_limits

log: FilteringBoundLogger = structlog.get_logger()

LOOPBACK, MAX_PORT = "127.0.0.1", 65535
CONSOLE_OFFSET = 1000
"""From the public port to that of the console, in development."""


class ServerPorts:
    """The public port of an `App`, and its admin port if it has one of its own.

    `host` and `port` replace those of the settings, and a Unix socket.
    """

    def __init__(self, app: App, host: str | None, port: int | None) -> None:
        settings = app.settings
        self._app = app
        self._host = settings.host if host is None else host
        self._unix_socket = settings.unix_socket if host is None and port is None else None
        self.port: int = settings.port if port is None else port
        """The number of the public port: that of the settings, and the one that was bound when it listens."""
        self.admin_port: int | None = settings.admin_port
        self._has_console_port = settings.development and settings.admin_port is None
        self._trusted_proxies = settings.trusted_proxies
        self._keep_alive_seconds = settings.keep_alive_seconds
        self._limits = make_connection_limits(settings)
        self._limits_open_files = False
        self._states: list[PortState] = []
        app.settings_changes.add(self._use_settings)

    @property
    def log_facts(self) -> dict[str, object]:
        """The addresses to listen on, for log lines."""
        public = (
            {"host": self._host, "port": self.port} if self._unix_socket is None else {"unix_socket": self._unix_socket}
        )
        return {**public, "admin_port": self.admin_port}

    def limit_open_files(self) -> None:
        """Allow no more connections than the process may open files. Call it before `listen`."""
        self._limits_open_files = True
        self._limits = within_open_files(self._limits)

    def listen(self) -> list[Listener]:
        """Bind the port, or the two ports; the first listener is the public one. Raises `ListenError`."""
        app = self._app
        state = self.public_state(app.dispatch if self.admin_port is None else app.public)
        public = Listener(self._host, self.port, state, unix_socket=self._unix_socket)
        self.port = public.port
        if self._has_console_port:
            admin = listen_for_console(self.port, self.admin_state())
        elif self.admin_port is None:
            return [public]
        else:
            try:
                admin = Listener(self._host, self.admin_port, self.admin_state())
            except ListenError:
                public.stop_accepting()
                raise
        self.admin_port = admin.port
        return [public, admin]

    def public_state(self, app: ASGIApp) -> PortState:
        """The state of a port that serves `app`, behind proxies that are trusted."""
        rejections = self._app.rejections
        if self._trusted_proxies or self._unix_socket is not None:
            app = ForwardedMiddleware(app, self._trusted_proxies)
            rejections = ForwardedMiddleware(rejections, self._trusted_proxies)
        return self._state(app, rejections)

    def admin_state(self) -> PortState:
        """The state of the admin port. It ignores forwarded headers: its access rule is for the peer that connects."""
        return self._state(self._app.admin, self._app.rejections)

    def _state(self, app: ASGIApp, rejections: ASGIApp) -> PortState:
        state = PortState(
            app,
            rejections=rejections,
            limits=self._limits,
            keep_alive_seconds=self._keep_alive_seconds,
            accepts_websockets=self._app.has_websockets,
            on_interrupt=self._app.telemetry.on_interrupt,
        )
        self._states.append(state)
        return state

    def _use_settings(self, before: ChassisSettings, after: ChassisSettings) -> None:
        """Use changed limits for connections that are opened from now on."""
        limits = make_connection_limits(after)
        if limits == make_connection_limits(before) and after.keep_alive_seconds == before.keep_alive_seconds:
            return
        self._limits = within_open_files(limits) if self._limits_open_files else limits
        for state in self._states:
            state.limits, state.keep_alive_seconds = self._limits, after.keep_alive_seconds


def listen_for_console(port: int, state: PortState) -> Listener:
    """The admin port of a service in development: beside the public one, or any free port, on this machine only."""
    beside = port + CONSOLE_OFFSET
    if port > 0 and beside <= MAX_PORT:
        try:
            return Listener(LOOPBACK, beside, state)
        except ListenError:
            log.warning("port of the console is in use", port=beside)
    return Listener(LOOPBACK, 0, state)
