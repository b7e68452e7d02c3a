"""The connection to NATS: opened with a deadline, and open again after every failure."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import structlog
from nats import errors as nats_errors
from nats.aio.client import Client
from structlog.typing import FilteringBoundLogger

from .errors import EventsUnavailableError
from .settings import NatsSettings

log: FilteringBoundLogger = structlog.get_logger()

ATTEMPT_SECONDS = 2  # for one attempt to connect; nats-py counts in whole seconds
RETRY_SECONDS = 0.25  # between two attempts at one server
PING_SECONDS = 10  # a server that does not respond to three pings is left
MAX_PINGS = 2
NEW_CLIENT_SECONDS = 1.0
FLUSH_SECONDS = 1
CLOSE_SECONDS = 1.0
LOG_SECONDS = 1.0  # between two lines about attempts that fail
# TimeoutError is an OSError. The last one: uvloop raises it for a socket that is closed already.
CLOSE_ERRORS = (nats_errors.Error, OSError, RuntimeError)


class Connection:
    """One connection. nats-py reconnects by itself; where it gives up, such as after a password has changed, a new
    client replaces the old one.
    """

    def __init__(self, settings: NatsSettings, application_name: str) -> None:
        self.connected: asyncio.Event = asyncio.Event()
        self.down_since: float = monotonic()
        """The time at which the connection was lost, monotonic seconds."""
        self.count: int = 0
        """The number of connections so far. A request for messages is gone when it changes."""
        self.on_change: list[Callable[[], None]] = []
        """Called when the connection is lost, and when there is one again."""
        self.settings: NatsSettings = settings
        """Those for the next connection."""
        self._application_name = application_name
        self._client: Client | None = None
        self._is_over = asyncio.Event()
        """Set when the client is to be replaced."""
        self._task: asyncio.Task[None] | None = None
        self._is_starting = False
        self._is_closing = False
        self._logged_at = -LOG_SECONDS
        self._last_error: Exception | None = None

    @property
    def name(self) -> str:
        """The server's address for messages."""
        host, port = self.settings.nats_address
        return f"NATS at {host}:{port}"

    @property
    def client(self) -> Client:
        """The client. Raises `EventsUnavailableError` while there is no connection."""
        if self._client is None or not self.connected.is_set():
            raise EventsUnavailableError(f"{self.name} is not connected: {self._reason()}")
        return self._client

    async def open(self, *, wait: bool) -> None:
        """Begin to connect. With `wait`, raises `EventsUnavailableError` after `nats_connect_seconds`."""
        self.down_since = monotonic()
        self._is_starting = wait
        self._task = task = asyncio.create_task(self._keep_connected(), name="connection to NATS")
        if not wait:
            return
        seconds = self.settings.nats_connect_seconds
        connected = asyncio.ensure_future(self.connected.wait())
        try:
            await asyncio.wait({task, connected}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                await task
            if not self.connected.is_set():
                raise EventsUnavailableError(
                    f"{self.name} accepted no connection in {seconds:g} seconds: {self._reason()}; "
                    "check APP_NATS_URL, the credentials and the network policy"
                )
        except BaseException:
            await self.close()
            raise
        finally:
            connected.cancel()
            self._is_starting = False

    async def close(self) -> None:
        """Send what is waiting, and close the connection."""
        self._is_closing = True
        if self._client is not None:
            with suppress(*CLOSE_ERRORS):
                async with asyncio.timeout(CLOSE_SECONDS):
                    if self.connected.is_set():
                        await self._client.flush(FLUSH_SECONDS)
                    await self._client.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def wait(self, seconds: float) -> Client:
        """The client, as soon as it is connected. A connection that is down for longer than `seconds` fails at once."""
        if not self.connected.is_set():
            remaining = self.down_since + seconds - monotonic()
            if remaining > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(remaining):
                        await self.connected.wait()
        return self.client

    async def _keep_connected(self) -> None:
        while True:
            client = Client()
            self._client = client
            try:
                await client.connect(self.settings.nats_servers, **self._options())
                self._is_over.clear()
                await self._on_connect()
                await self._is_over.wait()
            except (OSError, nats_errors.Error) as error:
                if self._is_starting:
                    raise  # a mistake in the settings
                await self._on_error(error)  # such as a certificate that is just being replaced
            finally:
                await self._on_disconnect()
                with suppress(*CLOSE_ERRORS):
                    await client.close()
            await asyncio.sleep(NEW_CLIENT_SECONDS)

    def _options(self) -> dict[str, Any]:
        return {
            "name": self._application_name,
            "connect_timeout": ATTEMPT_SECONDS,
            "reconnect_time_wait": RETRY_SECONDS,
            "max_reconnect_attempts": -1,
            "ping_interval": PING_SECONDS,
            "max_outstanding_pings": MAX_PINGS,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnect,
            "reconnected_cb": self._on_connect,
            "closed_cb": self._on_close,
            **self.settings.make_nats_options(),
        }

    async def _on_connect(self) -> None:
        if self.count:
            log.info("reconnected to NATS", seconds=round(monotonic() - self.down_since, 3))
        self.count += 1
        self.connected.set()
        self._notify()

    async def _on_disconnect(self) -> None:
        if self.connected.is_set():
            self.connected.clear()
            self.down_since = monotonic()
            self._notify()
            if not self._is_closing:
                log.warning("connection to NATS lost", server=self.name, reason=self._reason())

    async def _on_close(self) -> None:
        self._is_over.set()  # nats-py has given up, as after some errors of the server

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        if isinstance(error, nats_errors.Error) and self.count and not self.connected.is_set():
            # The server rejects a reconnection, such as with an old password. nats-py would leave its socket open.
            self._is_over.set()
        if not self._is_closing and monotonic() - self._logged_at >= LOG_SECONDS:
            self._logged_at = monotonic()
            log.warning("connection to NATS failed", server=self.name, reason=self._reason())

    def _notify(self) -> None:
        for call in self.on_change:
            call()

    def _reason(self) -> str:
        error = self._last_error
        return "no connection yet" if error is None else str(error) or type(error).__name__
