"""Where the responses to requests with an idempotency key are kept."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any, Protocol

ENTRY_BYTES = 600  # for all that is not content: the entry itself, its hashes, its place in the dictionary


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """One attempt of a client to get something done once."""

    key: str
    """A hash of the client's key, the method, the path and the principal: 64 hexadecimal digits."""
    fingerprint: str
    """A hash of the query and the body: 64 hexadecimal digits."""
    attempt: str
    """Of this request alone, so that one that is late does not change what a later one has done."""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response that is sent again to each request with the same key."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes | None
    """None if the content was streamed or too large: the request is complete, but cannot be replayed."""


class KeyInUseError(Exception):
    """Another request with this key has not been completed."""


class KeyReusedError(Exception):
    """This key was used for another request: the fingerprint differs."""


class IdempotencyStore(Protocol):
    """Keeps the responses to idempotent requests.

    An attempt begins, and is either completed or abandoned. A process that dies does neither: then the key is in use
    until `lock_seconds` after the beginning.

    A store that lives in the handler's own database can keep the response in the transaction of the handler, so that
    either both or none are there: `record` is called when the method has returned, and before what the application
    provides, such as a session, is left. `provided` has these values by type. If the transaction fails to commit,
    `abandon` follows, else `complete`, which has nothing left to do then.
    """

    async def begin(self, request: IdempotentRequest, lock_seconds: float) -> StoredResponse | None:
        """None if this is the first attempt, else the response to that one.

        Raises `KeyInUseError` while another attempt lasts, and `KeyReusedError` if the fingerprint is another.
        """
        ...

    async def record(
        self,
        request: IdempotentRequest,
        response: StoredResponse,
        keep_seconds: float,
        provided: Mapping[Hashable, Any],
    ) -> None:
        """Keep `response` in the transaction of the method, if `provided` has one.

        It is not to be replayed before the transaction is committed.
        """
        ...

    async def complete(self, request: IdempotentRequest, response: StoredResponse, keep_seconds: float) -> None:
        """Keep `response` for `keep_seconds`; nothing that the method has done is undone any more."""
        ...

    async def abandon(self, request: IdempotentRequest) -> None:
        """Let the next attempt begin anew, because this one has failed; only if the key is in use by this attempt."""
        ...


class MemoryIdempotencyStore:
    """Keeps responses in the memory of this process, which other instances of a service do not see.

    With more than `max_entries` or `max_bytes`, the oldest responses are dropped, and a repeated request is executed
    again. So is one that is repeated after a restart, or sent to another instance.
    """

    def __init__(
        self, *, max_entries: int = 10_000, max_bytes: int = 32_000_000, clock: Callable[[], float] = monotonic
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._clock = clock
        self._in_use: dict[str, _Entry] = {}
        self._complete: dict[str, _Entry] = {}
        self._bytes = 0

    async def begin(self, request: IdempotentRequest, lock_seconds: float) -> StoredResponse | None:
        now = self._clock()
        entry = self._complete.get(request.key) or self._in_use.get(request.key)
        if entry is not None and entry.until > now:
            if entry.request.fingerprint != request.fingerprint:
                raise KeyReusedError
            if entry.response is None:
                raise KeyInUseError
            return entry.response
        self._drop(request.key)
        self._in_use[request.key] = _Entry(request, None, now + lock_seconds, 0)
        return None

    async def record(
        self,
        request: IdempotentRequest,
        response: StoredResponse,
        keep_seconds: float,
        provided: Mapping[Hashable, Any],
    ) -> None:
        """Memory takes part in no transaction."""

    async def complete(self, request: IdempotentRequest, response: StoredResponse, keep_seconds: float) -> None:
        if not self._is_current(request):
            return
        del self._in_use[request.key]
        size = ENTRY_BYTES + len(response.body or b"") + sum(len(name) + len(value) for name, value in response.headers)
        self._complete[request.key] = _Entry(request, response, self._clock() + keep_seconds, size)
        self._bytes += size
        now = self._clock()
        while self._complete:
            oldest = next(iter(self._complete.values()))
            if oldest.until > now and len(self._complete) <= self._max_entries and self._bytes <= self._max_bytes:
                return
            self._drop(oldest.request.key)

    async def abandon(self, request: IdempotentRequest) -> None:
        if self._is_current(request):
            del self._in_use[request.key]

    def _is_current(self, request: IdempotentRequest) -> bool:
        entry = self._in_use.get(request.key)
        return entry is not None and entry.request.attempt == request.attempt

    def _drop(self, key: str) -> None:
        entry = self._complete.pop(key, None)
        if entry is not None:
            self._bytes -= entry.size


@dataclass(frozen=True, slots=True)
class _Entry:
    request: IdempotentRequest
    response: StoredResponse | None
    until: float
    size: int
