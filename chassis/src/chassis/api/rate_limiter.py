"""Counts the requests of callers, and rejects those beyond their rate limits."""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from hashlib import blake2b
from math import ceil
from time import monotonic, monotonic_ns
from typing import Any

import structlog
from prometheus_client import Counter
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from ..problem import Problem, send_problem
from ..response_sender import Header, ResponseSender
from .access import Guard, Requirement
from .guarded import Application, denying
from .rate_limit import Networks, Quota, RateLimit, RateLimitStore

log: FilteringBoundLogger = structlog.get_logger()

MAX_CALLERS = 50_000
MAX_CALLER = 200  # characters
STORE_SECONDS = 0.2
PAUSE_SECONDS = 5.0
# The problem type and its member (draft-ietf-httpapi-ratelimit-headers-11, section 5).
PROBLEM_TYPE = "https://iana.org/assignments/http-problem-types#quota-exceeded"
PROBLEM_TITLE = "Request cannot be satisfied as assigned quota has been exceeded"
POLICIES = "violated-policies"

CallerOf = Callable[[Scope], str | None]


class MemoryRateLimits:
    """The buckets of callers in the memory of one process.

    A bucket is one number: the time at which it is full again (the generic cell rate algorithm). At most `max_callers`
    buckets are kept. Beyond it, the bucket that was used the longest ago is dropped, so its caller begins with a full
    one. So a flood of new callers rejects nobody, and memory is bounded.
    """

    def __init__(self, max_callers: int = MAX_CALLERS, *, clock: Callable[[], int] = monotonic_ns) -> None:
        """`clock` returns nanoseconds."""
        self._max_callers = max_callers
        self._clock = clock
        # A plain dictionary gets slow if its first entries are removed again and again.
        self._full_at: OrderedDict[tuple[str, str], int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def forget(self, name: str) -> None:
        """Fill the buckets of a limit that has changed: an empty one would stay so for as long as before."""
        for key in [key for key in self._full_at if key[0] == name]:
            del self._full_at[key]

    def take(self, limit: RateLimit, caller: str) -> Quota:
        """Take a token from the bucket of `caller`, unless it is empty."""
        now = self._clock()
        buckets = self._full_at
        key = (limit.name, caller)
        ahead = max(buckets.get(key, now) - now, 0)
        is_allowed = ahead + limit.interval_ns <= limit.capacity_ns
        if is_allowed:
            ahead += limit.interval_ns
        buckets[key] = now + ahead
        buckets.move_to_end(key)
        if len(buckets) > self._max_callers:
            buckets.popitem(last=False)
        return limit.after(ahead, is_allowed=is_allowed)


class RateLimiter:
    """Takes a token for each request from the store, or from the memory of the process.

    While the store fails or takes longer than `STORE_SECONDS`, the process counts alone: no request is rejected because
    of the store. After a failure, it is not asked for `PAUSE_SECONDS`.
    """

    def __init__(
        self,
        *,
        rejected: Counter,
        store_failures: Counter,
        store: RateLimitStore | None = None,
        caller_of: CallerOf | None = None,
        memory: MemoryRateLimits | None = None,
    ) -> None:
        """`rejected` counts requests by the name of the limit. `caller_of` may return None for the default."""
        self._rejected = rejected
        self._store_failures = store_failures
        self._store = store
        self._memory = MemoryRateLimits() if memory is None else memory
        self._default_caller_of = Networks().caller_of
        self._caller_of = caller_of
        self._retry_at = 0.0

    def forget(self, name: str) -> None:
        """A limit has changed: its callers begin anew in the memory of this process, and go on in a store."""
        self._memory.forget(name)

    def take(self, limits: Sequence[RateLimit], scope: Scope) -> list[Header] | Awaitable[list[Header]]:
        """Count a request, and return the headers for its response. Raises a `Problem` of 429 beyond a limit."""
        caller = (None if self._caller_of is None else self._caller_of(scope)) or self._default_caller_of(scope)
        if len(caller) > MAX_CALLER or not caller.isascii() or "\0" in caller:  # which a store may not be able to hold
            caller = blake2b(caller.encode(errors="surrogatepass"), digest_size=32).hexdigest()
        if self._store is not None:
            return self._take_shared(self._store, limits, caller)
        quotas: list[Quota] = []
        for limit in limits:
            quota = self._memory.take(limit, caller)
            quotas.append(quota)
            if not quota.is_allowed:
                raise self._exceeded(limits, quotas)
        return fields(limits, quotas)

    async def _take_shared(self, store: RateLimitStore, limits: Sequence[RateLimit], caller: str) -> list[Header]:
        quotas: list[Quota] = []
        for limit in limits:
            quota = await self._ask(store, limit, caller)
            quotas.append(quota)
            if not quota.is_allowed:
                raise self._exceeded(limits, quotas)
        return fields(limits, quotas)

    async def _ask(self, store: RateLimitStore, limit: RateLimit, caller: str) -> Quota:
        if monotonic() >= self._retry_at:
            try:
                async with asyncio.timeout(STORE_SECONDS):
                    return await store.take(limit, caller)
            except Exception as error:  # noqa: BLE001 - whatever fails there must not fail requests
                self._store_failures.inc()
                if monotonic() >= self._retry_at:  # not one line for each request that was in progress
                    reason = f"{type(error).__name__}: {error}".removesuffix(": ")
                    log.warning("rate limit store failed", reason=reason, next_attempt_in_seconds=PAUSE_SECONDS)
                self._retry_at = monotonic() + PAUSE_SECONDS
        return self._memory.take(limit, caller)

    def _exceeded(self, limits: Sequence[RateLimit], quotas: Sequence[Quota]) -> Problem:
        """429 because of the last of `quotas`."""
        limit, quota = limits[len(quotas) - 1], quotas[-1]
        self._rejected.labels(limit.name).inc()
        seconds = max(ceil(quota.seconds), 1)
        headers = {name.decode(): value.decode() for name, value in fields(limits, quotas)}
        detail = f"The limit {limit.name} allows {limit.requests} requests in {limit.seconds:g} seconds; retry later."
        members: dict[str, Any] = {POLICIES: [limit.name]}
        return Problem(
            429,
            detail,
            type=PROBLEM_TYPE,
            title=PROBLEM_TITLE,
            headers={"retry-after": str(seconds)} | headers,
            **members,
        )


def fields(limits: Sequence[RateLimit], quotas: Sequence[Quota]) -> list[Header]:
    """The fields `RateLimit-Policy` and `RateLimit` (draft-ietf-httpapi-ratelimit-headers-11), which are lists."""
    if len(limits) == 1:  # the most frequent case
        policies, states = limits[0].policy, state(limits[0], quotas[0])
    else:
        policies = ", ".join([limit.policy for limit in limits])
        states = ", ".join([state(limit, quota) for limit, quota in zip(limits, quotas, strict=False)])
    return [(b"ratelimit-policy", policies.encode()), (b"ratelimit", states.encode())]


def state(limit: RateLimit, quota: Quota) -> str:
    """A member of `RateLimit`: the requests that remain, and seconds (see `Quota`)."""
    return f"{limit.item};r={quota.remaining};t={ceil(quota.seconds)}"


def limited(app: Application, limiter: RateLimiter, limits: Sequence[RateLimit]) -> Application:
    """`app` behind the rate limits; `app` itself without any."""
    if not limits:
        return app

    # A plain function, for performance: without a shared store, it needs no coroutine of its own.
    def call(scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        headers = limiter.take(limits, scope)
        if isinstance(headers, list):
            return app(scope, receive, with_headers(send, headers))
        return _call_after(headers, app, scope, receive, send)

    return call


async def _call_after(
    waits: Awaitable[list[Header]], app: Application, scope: Scope, receive: Receive, send: Send
) -> None:
    await app(scope, receive, with_headers(send, await waits))


def with_headers(send: Send, headers: list[Header]) -> Send:
    """A `send` that adds headers to the response."""
    if isinstance(send, ResponseSender):
        send.add(headers)
        return send

    def send_with_headers(message: Message) -> Awaitable[None]:
        if message["type"] in ("http.response.start", "websocket.accept"):
            message = {**message, "headers": [*message.get("headers", ()), *headers]}
        return send(message)

    return send_with_headers


class LimitedApp:
    """An ASGI application behind rate limits, for routes that are not of handlers."""

    def __init__(self, app: Any, limiter: RateLimiter, limits: Sequence[RateLimit]) -> None:
        self.app: ASGIApp = app
        self.limits: Sequence[RateLimit] = limits
        self._limited = limited(app, limiter, limits)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if is_preflight(scope):
            await self.app(scope, receive, send)
            return
        try:
            await self._limited(scope, receive, send)
        except Problem as error:
            can_deny = "websocket.http.response" in (scope.get("extensions") or {})
            if scope["type"] != "websocket" or not can_deny or error.type != PROBLEM_TYPE:
                raise
            await send_problem(denying(send), error)


def is_preflight(scope: Scope) -> bool:
    """Whether a browser asks whether it may send a request. A mounted application may have CORS of its own."""
    if scope["type"] != "http" or scope["method"] != "OPTIONS":
        return False
    return any(name == b"access-control-request-method" for name, _ in scope["headers"])


class CountingGuard:
    """A guard that counts the requests that it rejects.

    They count for the principal or, without valid credentials, for the address. A request with valid credentials counts
    for its principal alone. So nobody can lock out others that share an address by sending wrong credentials.
    """

    def __init__(self, guard: Guard, limiter: RateLimiter, limits: Sequence[RateLimit]) -> None:
        self._guard = guard
        self._limiter = limiter
        self._limits = limits

    def admit(self, scope: Scope, requirement: Requirement) -> Awaitable[None] | None:
        """Let a request in; see `chassis.api.access.Guard`. Raises a `Problem` of 429 instead beyond a limit."""
        try:
            waits = self._guard.admit(scope, requirement)
        except HTTPException as error:
            counts = self._limiter.take(self._limits, scope)
            if isinstance(counts, list):
                raise
            return _raise_after(counts, error)
        return None if waits is None else self._admit_after(waits, scope)

    async def _admit_after(self, waits: Awaitable[None], scope: Scope) -> None:
        try:
            await waits
        except HTTPException:
            counts = self._limiter.take(self._limits, scope)
            if not isinstance(counts, list):
                await counts
            raise


async def _raise_after(counts: Awaitable[list[Header]], error: HTTPException) -> None:
    await counts
    raise error
