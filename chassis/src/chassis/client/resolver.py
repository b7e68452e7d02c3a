"""`Resolver`: the addresses of a dependency's replicas, looked up in the background."""

import asyncio
import ipaddress
import random as standard_random
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from types import TracebackType
from typing import Self

import structlog
from structlog.typing import FilteringBoundLogger

from .transport import Address

log: FilteringBoundLogger = structlog.get_logger()

LOOKUP_SECONDS = 5.0
REFRESH_SECONDS = 1.0
FIRST_RETRY_SECONDS, MAX_RETRY_SECONDS = 0.1, 5.0
JITTER = 0.25
ADDRESS = re.compile(r"(?:\[([^\]]+)\]|([\w.-]+))(?::(\d{1,5}))?", re.ASCII)

Lookup = Callable[[str, int], Awaitable[Iterable[Address]]]


async def look_up(host: str, port: int) -> list[Address]:
    """All addresses of a name, IPv4 and IPv6, by the resolver of the operating system."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Address(str(sockaddr[0]), port) for *_, sockaddr in found]


def parse_address(text: str, default_port: int) -> Address:
    """The address that `host:port`, `[::1]:port` or a host alone means. Raises `ValueError`."""
    if _is_ip(text):
        return Address(text, default_port)
    match = ADDRESS.fullmatch(text)
    ipv6, name, port = match.groups() if match is not None else (None, None, None)
    number = default_port if port is None else int(port)
    if not (name or (ipv6 and _is_ip(ipv6))) or not 0 < number < 65_536:
        raise ValueError(f"{text!r} is not the address of a replica; write host:port, such as 10.0.0.7:8080")
    return Address(name or ipv6 or "", number)


class Resolver:
    """Looks up the addresses of a name, or of a list of replicas, while it is open (`async with`).

    The last good addresses are kept while lookups fail or find nothing. A failure does not fail the start: calls wait
    for `ready`, and the lookup is retried soon. IP addresses are not looked up. An unfinished lookup is not started
    a second time, because each one uses a thread.
    """

    def __init__(
        self,
        host: str,
        port: int,
        seconds: float,
        on_change: Callable[[tuple[Address, ...]], None],
        *,
        dependency: str,
        replicas: Iterable[str] = (),
        lookup: Lookup = look_up,
        lookup_seconds: float = LOOKUP_SECONDS,
        refresh_seconds: float = REFRESH_SECONDS,
        random: Callable[[], float] = standard_random.random,
    ) -> None:
        """Look up every `seconds`, on request every `refresh_seconds`, and wait `lookup_seconds` for a result.

        `replicas` (`host:port`) replace `host` and `port`. Raises `ValueError` if one of them is no address.
        """
        self.addresses: tuple[Address, ...] = ()
        self.targets: list[Address] = [parse_address(replica, port) for replica in replicas] or [Address(host, port)]
        """The addresses that are given, before their names are looked up."""
        self._literals = [target for target in self.targets if _is_ip(target.host)]
        self._names = [_Name(target, dependency, lookup) for target in self.targets if not _is_ip(target.host)]
        self._seconds = seconds
        self._lookup_seconds = lookup_seconds
        self._refresh_seconds = refresh_seconds
        self._on_change = on_change
        self._random = random
        self._is_known = asyncio.Event()
        self._is_wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Begin to look up. It does not wait for a result."""
        self._publish()
        if self._names:
            self._task = asyncio.create_task(self._run(), name="resolver")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})
            await asyncio.gather(*(name.stop() for name in self._names))

    async def ready(self) -> None:
        """Wait until there are addresses. Callers limit the time."""
        await self._is_known.wait()

    def refresh(self) -> None:
        """Look up soon, such as after a connection was rejected. May be called as often as you like."""
        self._is_wanted.set()

    async def _run(self) -> None:
        retry = FIRST_RETRY_SECONDS
        while True:
            self._is_wanted.clear()
            results = await asyncio.gather(*(name.look_up(self._lookup_seconds) for name in self._names))
            self._publish()
            if all(results):
                delay, retry = self._seconds, FIRST_RETRY_SECONDS
            else:
                delay, retry = min(retry, self._seconds), min(retry * 2, MAX_RETRY_SECONDS)
            delay *= 1.0 - JITTER * self._random()
            pause = min(self._refresh_seconds, delay)
            await asyncio.sleep(pause)
            with suppress(TimeoutError):
                async with asyncio.timeout(delay - pause):
                    await self._is_wanted.wait()

    def _publish(self) -> None:
        found = {*self._literals, *(address for name in self._names for address in name.addresses)}
        addresses = tuple(sorted(found))
        if addresses and addresses != self.addresses:
            self.addresses = addresses
            self._on_change(addresses)
            self._is_known.set()


class _Name:
    """A name, and its last good addresses."""

    def __init__(self, target: Address, dependency: str, lookup: Lookup) -> None:
        self.addresses: list[Address] = []
        self._target = target
        self._dependency = dependency
        self._lookup = lookup
        self._pending: asyncio.Task[list[Address]] | None = None
        self._is_failing = False

    async def look_up(self, seconds: float) -> bool:
        """Wait at most `seconds` for the addresses. False if the last good ones are kept."""
        if self._pending is None:
            self._pending = asyncio.create_task(self._find(), name="lookup")
        await asyncio.wait({self._pending}, timeout=seconds)
        if not self._pending.done():
            self._note(f"no answer within {seconds:g} seconds")
            return False
        pending, self._pending = self._pending, None
        try:
            addresses = pending.result()
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a name, it is looked up again
            self._note(f"{type(error).__name__}: {error}")
            return False
        if not addresses:
            self._note("the name has no addresses")
            return False
        self.addresses = addresses
        self._note(None)
        return True

    async def stop(self) -> None:
        """Give up a lookup that is not finished."""
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)

    async def _find(self) -> list[Address]:
        return list(await self._lookup(*self._target))

    def _note(self, error: str | None) -> None:
        """Log a change from success to failure or back."""
        if self._is_failing == (error is not None):
            return
        self._is_failing = error is not None
        facts = {"dependency": self._dependency, "host": self._target.host, "addresses": len(self.addresses)}
        if error is not None:
            log.warning("name lookup failed", error=error, **facts)
        else:
            log.info("name lookup succeeded again", **facts)


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
