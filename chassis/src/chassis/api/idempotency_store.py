"""The stores of responses to requests with an idempotency key."""

from collections.abc import Callable, Hashable, Mapping
from time import monotonic
from typing import Any, NamedTuple, Protocol

ENTRY_BYTES = 600  # an estimate of the memory beside the content: the entry, its hashes, its slot in the dictionary


class IdempotentRequest(NamedTuple):
    """One attempt to execute a request with an idempotency key."""

    key: str
    """A hash of the client's key, the method, the path and the principal: 64 hexadecimal digits."""
    fingerprint: str
    """A hash of the query and the body: 64 hexadecimal digits."""
    attempt: str
    """A random id of this attempt, so that a late attempt cannot change the entry of a later one."""


class StoredResponse(NamedTuple):
    """A response that is replayed to each request with the same key."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes | None
    """None if the content was streamed or too large: the request is complete, but cannot be replayed."""


class KeyInUseError(Exception):
    """Another request with this key is still in progress."""


class KeyReusedError(Exception):
    """This key was used for another request: the fingerprint differs."""


class IdempotencyStore(Protocol):
    """Stores the responses to idempotent requests.

    Each attempt begins, and is then completed or abandoned. If the process dies in between, the key stays in use until
    `lock_seconds` after the beginning.

    A store in the handler's own database can save the response in the handler's transaction, so that both are committed
    or neither is. For this, `record` is called after the method has returned and before provided context managers, such
    as a session, exit. `provided` has their values by type. After a commit, `complete` is called, which then has
    nothing to do; after a failed commit, `abandon` is called.
    """

    async def begin(self, request: IdempotentRequest, lock_seconds: float) -> StoredResponse | None:
        """None if this is the first attempt, else the response to the first attempt.

        Raises `KeyInUseError` while another attempt is in progress, and `KeyReusedError` if the fingerprint differs.
        """
        ...

    async def record(
        self,
        request: IdempotentRequest,
        response: StoredResponse,
        keep_seconds: float,
        provided: Mapping[Hashable, Any],
    ) -> None:
        """Store `response` in the transaction of the method, if `provided` has one.

        Do not replay it before the transaction is committed. Raises `KeyInUseError` if another attempt has begun since
        the lock of this one expired: the transaction is then rolled back.
        """
        ...

    async def complete(self, request: IdempotentRequest, response: StoredResponse, keep_seconds: float) -> None:
        """Store `response` for `keep_seconds`. The work of the method is committed."""
        ...

    async def abandon(self, request: IdempotentRequest) -> None:
        """Release the key, because this attempt has failed. Does nothing if another attempt uses the key."""
        ...


class MemoryIdempotencyStore:
    """Stores responses in the memory of this process.

    Other instances do not see them: a retry that reaches another instance, or comes after a restart, is executed again.
    Beyond `max_entries` or `max_bytes`, the oldest responses are dropped.
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
        """Nothing: the memory takes part in no transaction."""

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


class _Entry(NamedTuple):
    request: IdempotentRequest
    response: StoredResponse | None
    until: float
    size: int
