"""A wrapper of idempotent operations: it begins an attempt, and stores, replays or abandons it."""

import asyncio
import inspect
from collections.abc import Hashable, Iterable, Mapping
from functools import partial
from hashlib import sha256
from typing import Any, Protocol
from uuid import uuid4

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from ..context import annotate
from ..problem import Problem
from ..request_info import RequestInfo
from ..response_sender import send_response
from .access import identity_of
from .continuation import Continuation, DetachedError
from .dependencies import Provider, ProviderError
from .idempotency import HEADER, REPLAYED, Idempotency, key_of
from .idempotency_store import (
    IdempotencyStore,
    IdempotentRequest,
    KeyInUseError,
    KeyReusedError,
    MemoryIdempotencyStore,
    StoredResponse,
)
from .request_body import read_body

log: FilteringBoundLogger = structlog.get_logger()

ATTEMPT = "chassis.idempotency"  # the key in an ASGI scope
ABANDON_SECONDS = 5.0
# These statuses ask the client to retry, so they are not replayed.
RETRIED = frozenset({408, 425, 429})
# Headers of one connection (RFC 9110, section 7.6.1) or of one request.
NOT_STORED = frozenset(
    {
        b"connection",
        b"date",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"traceparent",
        b"tracestate",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"x-request-id",
    }
)


class Attempt:
    """A request in progress. It is settled when its response is stored, or when it is abandoned."""

    def __init__(self, store: IdempotencyStore, request: IdempotentRequest, options: Idempotency) -> None:
        self.is_settled: bool = False
        self._store = store
        self._request = request
        self._options = options

    async def record(self, response: StoredResponse, provided: Mapping[Hashable, Any]) -> None:
        """Let the store save the response in the transaction of the method, after the method has returned.

        Raises a `Problem`, 409, if another attempt has begun because this one took longer than `lock_seconds`.
        """
        if not is_replayed(response.status):
            return
        try:
            await self._store.record(self._request, self._within_bound(response), self._options.keep_seconds, provided)
        except KeyInUseError:
            raise _key_in_use() from None

    async def settle(self, response: StoredResponse) -> None:
        """Store the response, or abandon the attempt. A failure of the store is logged, and the response is sent."""
        if not is_replayed(response.status):
            await self.abandon()
            return
        self.is_settled = True
        try:
            await self._store.complete(self._request, self._within_bound(response), self._options.keep_seconds)
        except Exception:
            log.exception("idempotent response not stored", status=response.status)

    async def abandon(self) -> None:
        """Release the key, so that a retry is executed. Does nothing if the attempt is settled."""
        if self.is_settled:
            return
        self.is_settled = True
        try:
            async with asyncio.timeout(ABANDON_SECONDS):
                await self._store.abandon(self._request)
        except Exception:
            log.exception("idempotency key not released", lock_seconds=self._options.lock_seconds)

    def _within_bound(self, response: StoredResponse) -> StoredResponse:
        if response.body is None or len(response.body) <= self._options.max_response_bytes:
            return response
        return StoredResponse(response.status, response.headers, None)


class Executable(Protocol):
    """The interface of an operation that this module uses."""

    @property
    def runs_in_thread(self) -> bool:
        """Whether its method runs in a thread, and so cannot be cancelled."""
        ...

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None: ...


class IdempotentOperation:
    """An ASGI application around an operation that `idempotent` marks."""

    def __init__(self, operation: Executable, options: Idempotency, providers: Mapping[Hashable, Provider]) -> None:
        """Raises `ProviderError` if the provider of `IdempotencyStore` is a function and not an object."""
        self._operation = operation
        self._options = options
        self._providers = providers
        self._continuation = Continuation("idempotent request", options.lock_seconds)
        self._own_store: IdempotencyStore = MemoryIdempotencyStore()
        self._store()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = key_of(scope["headers"])
        if key is None:
            if self._options.required:
                raise Problem(
                    400,
                    f"The header {HEADER} is required. Send a new value, such as a UUID, for each request, "
                    "and the same value when you retry it.",
                )
            await self._operation(scope, receive, send)
            return
        request = await self._identify(key, Request(scope), body := await read_body(receive))
        attempt = Attempt(self._store(), request, self._options)
        try:
            stored = await self._begin(request)
        except _RejectedKeyError as error:
            raise error.problem from None
        except BaseException:  # the store may have begun the attempt before it failed
            await attempt.abandon()
            raise
        if stored is not None:
            await _replay(stored, send)
            return
        scope[ATTEMPT] = attempt
        sender = _Settling(send, attempt)
        # A client that has disconnected will retry, and must then get the response of this request.
        await self._continuation.run(
            scope,
            self._execute(scope, replaying(body, receive), sender, attempt),
            continues=partial(self._continues, scope),
            on_detached=sender.detach,
        )

    async def _execute(self, scope: Scope, receive: Receive, send: Send, attempt: Attempt) -> None:
        try:
            await self._operation(scope, receive, send)
        finally:
            await attempt.abandon()

    def _continues(self, scope: Scope) -> bool:
        """Whether a cancelled request is executed to completion. A thread cannot be cancelled in any case."""
        info = RequestInfo.of(scope)
        return info.client_has_gone or (info.timed_out_task is not None and self._operation.runs_in_thread)

    async def _identify(self, key: bytes, request: Request, body: bytes) -> IdempotentRequest:
        principal = self._options.principal
        if principal is None:
            # Not the token of an authenticated client: it is renewed between two requests.
            user = identity_of(request.scope) or request.headers.get("authorization", "")
        else:
            result = principal(request)
            user = await result if inspect.isawaitable(result) else result
        scope = request.scope
        return IdempotentRequest(
            _digest(*(text.encode(errors="surrogatepass") for text in (scope["method"], scope["path"], user)), key),
            _digest(scope["query_string"], body),
            uuid4().hex,
        )

    async def _begin(self, request: IdempotentRequest) -> StoredResponse | None:
        try:
            return await self._store().begin(request, self._options.lock_seconds)
        except KeyInUseError:
            raise _RejectedKeyError(_key_in_use()) from None
        except KeyReusedError:
            detail = f"This {HEADER} was used with another query or body; send a new key for a new request."
            raise _RejectedKeyError(Problem(422, detail)) from None

    def _store(self) -> IdempotencyStore:
        """The store. It is looked up for each request, because a test may override it."""
        provider = self._providers.get(IdempotencyStore)
        if provider is None:
            return self._own_store
        if not provider.is_constant:
            raise ProviderError(
                f"the provider of IdempotencyStore is {provider.make!r}; "
                "pass an object instead: app.provide(IdempotencyStore, store)"
            )
        store: IdempotencyStore = provider.make
        return store


def _key_in_use() -> Problem:
    detail = f"Another request with this {HEADER} is still in progress; retry later."
    return Problem(409, detail, headers={"retry-after": "1"})


class _RejectedKeyError(Exception):
    """The store has rejected this attempt, because its key is in use or was used for another request."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail)
        self.problem: Problem = problem


class _Settling:
    """A `send` that holds back the response until its attempt is settled."""

    def __init__(self, send: Send, attempt: Attempt) -> None:
        self._send = send
        self._attempt = attempt
        self._start: Message | None = None
        self._is_detached = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        start, self._start = self._start, None
        if start is not None:
            is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)
            body = bytes(message.get("body", b"")) if is_whole else None
            await self._attempt.settle(stored_response(start["status"], start.get("headers", ()), body))
            await self._forward(start)
        await self._forward(message)

    def detach(self) -> None:
        """Raise `DetachedError` for later messages, because the client has disconnected."""
        self._is_detached = True

    async def _forward(self, message: Message) -> None:
        if self._is_detached:
            raise DetachedError
        await self._send(message)


def stored_response(status: int, headers: Iterable[Iterable[bytes]], body: bytes | None) -> StoredResponse:
    """The response without the headers that belong to one connection or request."""
    pairs = [(bytes(name).lower(), bytes(value)) for name, value in headers]
    return StoredResponse(status, tuple(pair for pair in pairs if pair[0] not in NOT_STORED), body)


async def record(
    scope: Scope,
    status: int,
    headers: Iterable[tuple[bytes, bytes]],
    body: bytes | None,
    response: Response | None,
    provided: Mapping[Hashable, Any],
) -> None:
    """Let the store save a response in the transaction of a method. `response` is one of Starlette, or None."""
    attempt = scope.get(ATTEMPT)
    if not isinstance(attempt, Attempt):
        return  # a request without a key
    if response is not None:
        content = getattr(response, "body", None)  # a streamed response has none
        status, headers, body = response.status_code, response.raw_headers, None if content is None else bytes(content)
    await attempt.record(stored_response(status, headers, body), provided)


def is_replayed(status: int) -> bool:
    """Whether a retry gets a response with this status again. Otherwise it is executed."""
    return status < 500 and status not in RETRIED


def replaying(body: bytes, receive: Receive) -> Receive:
    """A `receive` that returns the body, which has been read already, and then continues with `receive`."""
    is_read = False

    async def receive_again() -> Message:
        nonlocal is_read
        if is_read:
            return await receive()
        is_read = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receive_again


async def _replay(stored: StoredResponse, send: Send) -> None:
    annotate(idempotency_replayed=True)
    if stored.body is None:
        raise Problem(
            409,
            f"The first request with this {HEADER} was completed with status {stored.status}, but its response was not "
            "stored. Check its result before you send a new key.",
        )
    await send_response(send, stored.status, [*stored.headers, (REPLAYED.encode(), b"true")], stored.body)


def _digest(*parts: bytes) -> str:
    """A hash of the parts. Their lengths are included, so that other parts cannot have the same hash."""
    return sha256(b"".join(b"%d:%b" % (len(part), part) for part in parts)).hexdigest()
