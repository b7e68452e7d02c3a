"""A worker as the supervisor sees it: its state, its messages, its admin application and its last metrics."""

import asyncio
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import StrEnum

from .messages import CONNECTION, METRICS, READY, RETIRING, receive, send
from .requests import HOST, NoResponseError, WorkerResponse, encode_request, exchange
from .worker import METRICS_PATH

SNAPSHOT_SECONDS = 2.0
RESPONSE_SECONDS = 120.0
LAST_METRICS_SECONDS = 0.5


class WorkerState(StrEnum):
    """The life of a worker."""

    STARTING = "starting"
    READY = "ready"
    RETIRING = "retiring"


class WorkerProcess:
    """A worker, from its fork until it has ended.

    `on_change` is called when its state has changed, and `on_link_end` when it has closed its link.
    """

    def __init__(
        self,
        number: int,
        slot: int,
        link: socket.socket,
        *,
        on_change: Callable[["WorkerProcess"], object],
        on_link_end: Callable[["WorkerProcess"], object],
    ) -> None:
        self.number: int = number
        """Different for each worker of the service."""
        self.slot: int = slot
        self.process: int = 0
        """Its process id; 0 until it is known."""
        self.state: WorkerState = WorkerState.STARTING
        self.started: float = time.monotonic()
        self.responded: float = self.started
        """The time of its last response, monotonic seconds."""
        self.retired: float = 0.0
        """When it stopped accepting connections, monotonic seconds; 0 until then."""
        self.hung: bool = False
        """Whether it was killed because it did not respond."""
        self.has_closed_link: bool = False
        """Whether it has closed its link, at the end of its process."""
        self.snapshot: bytes = b""
        """Its last known metrics; empty before the first ones."""
        self.settled: asyncio.Event = asyncio.Event()
        """Set when it has become ready, or has ended before."""
        self.ended: asyncio.Event = asyncio.Event()
        self._link = link
        self._on_change = on_change
        self._on_link_end = on_link_end
        self._has_last_snapshot = False
        self._pulling = asyncio.Lock()
        link.setblocking(False)
        asyncio.get_running_loop().add_reader(link, self._on_message)

    @property
    def label(self) -> str:
        """The value of the label `worker` of its metrics."""
        return str(self.slot)

    @property
    def accepts(self) -> bool:
        """Whether it accepts connections."""
        return self.state is WorkerState.READY

    def tell(self, kind: bytes, argument: int = 0, sockets: Sequence[socket.socket] = ()) -> None:
        """Send a message. A worker that has ended gets none."""
        with suppress(OSError):
            send(self._link, kind, argument, 0, sockets)

    async def request(
        self,
        method: str,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]] = HOST,
        body: bytes = b"",
        *,
        seconds: float = RESPONSE_SECONDS,
    ) -> WorkerResponse:
        """Send a request to the admin application. Raises `NoResponseError`."""
        ours, theirs = socket.socketpair()
        with ours:
            try:
                with theirs:
                    send(self._link, CONNECTION, sockets=[theirs])
                async with asyncio.timeout(seconds):
                    response = await exchange(ours, encode_request(method, target, headers, body))
            except TimeoutError:
                raise NoResponseError(f"no response in {seconds:g} seconds") from None
            except OSError as error:
                raise NoResponseError(str(error)) from error
        self.responded = time.monotonic()
        return response

    async def pull_snapshot(self) -> None:
        """Get its present metrics. If it does not respond in time, the last ones stay: counters never go backwards."""
        async with self._pulling:  # so that an older snapshot never replaces a newer one
            with suppress(NoResponseError):
                response = await self.request("GET", METRICS_PATH.encode(), seconds=SNAPSHOT_SECONDS)
                if response.is_success and not self._has_last_snapshot:
                    self.snapshot = response.body

    def end(self) -> None:
        """The process has ended: read what it has sent before, and close the link."""
        with suppress(OSError):
            self._on_message()
        asyncio.get_running_loop().remove_reader(self._link)
        self._link.close()
        self.settled.set()
        self.ended.set()

    def _on_message(self) -> None:
        while True:
            try:
                message = receive(self._link)
            except BlockingIOError:
                return
            if message is None:
                asyncio.get_running_loop().remove_reader(self._link)
                self.has_closed_link = True
                self._on_link_end(self)
                return
            if message.kind == METRICS:
                self._read_last_metrics(message.first)
            elif message.kind in (READY, RETIRING):
                self.state = WorkerState.READY if message.kind == READY else WorkerState.RETIRING
                self.retired = time.monotonic() if message.kind == RETIRING else 0.0
                self.settled.set()
                self._on_change(self)

    def _read_last_metrics(self, size: int) -> None:
        """The worker sends them in one piece and ends then, so that waiting for the rest takes no time."""
        data = bytearray()
        self._link.settimeout(LAST_METRICS_SECONDS)
        with suppress(OSError):
            while len(data) < size and (part := self._link.recv(size - len(data))):
                data += part
        if len(data) == size:
            self.snapshot = bytes(data)
            self._has_last_snapshot = True
        self._link.setblocking(False)
