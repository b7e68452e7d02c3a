"""Idempotency keys: a retried request is executed once (draft-ietf-httpapi-idempotency-key-header-07)."""

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, TypeVar, overload

from starlette.requests import Request

from ..problem import Problem

Method = TypeVar("Method", bound=Callable[..., Any])
Principal = Callable[[Request], str | Awaitable[str]]

HEADER = "Idempotency-Key"
REPLAYED = "idempotency-replayed"
MAX_KEY_LENGTH = 255
DAY_SECONDS = 86_400.0
# A String of Structured Fields (RFC 9651, section 3.3.3), optionally with parameters. Most clients send no quotes.
QUOTED = re.compile(rb'"((?:[ !#-\[\]-~]|\\["\\])*)"[ ]*(?:;.*)?')
BARE = re.compile(rb"[!#-+\--:<-\[\]-~]+")  # visible ASCII without quotation mark, comma, semicolon and backslash
# The additional problems of an idempotent operation, for OpenAPI.
PROBLEMS = {
    400: "The Idempotency-Key is missing or malformed.",
    409: "A request with this Idempotency-Key is still in progress, or its response was not stored.",
    422: "The Idempotency-Key was used for another request.",
}


class Idempotency(NamedTuple):
    """The options of `idempotent` for a method."""

    required: bool
    keep_seconds: float
    lock_seconds: float
    max_response_bytes: int
    principal: Principal | None


@overload
def idempotent(method: Method, /) -> Method: ...


@overload
def idempotent(
    *,
    required: bool = False,
    keep_seconds: float = DAY_SECONDS,
    lock_seconds: float = 300.0,
    max_response_bytes: int = 1_000_000,
    principal: Principal | None = None,
) -> Callable[[Method], Method]: ...


def idempotent(
    method: Method | None = None,
    /,
    *,
    required: bool = False,
    keep_seconds: float = DAY_SECONDS,
    lock_seconds: float = 300.0,
    max_response_bytes: int = 1_000_000,
    principal: Principal | None = None,
) -> Method | Callable[[Method], Method]:
    """Execute a request with an `Idempotency-Key` once, even if the client retries it; for `post` and `patch`.

    A retry gets the response of the first request, with `idempotency-replayed: true`. While the first request is in
    progress, a retry gets 409. The same key with another query or body gets 422. Without a key, a request is executed
    as usual; with `required`, it gets 400.

    The key is a quoted string, as in the draft, or the same text without quotes. It is scoped to the method, the path
    and the principal. `principal` is a function of the request that returns an id of the user. The default is the
    authenticated principal, and without authentication the value of the Authorization header. Pass one if a user's
    token is in a cookie.

    The response is stored for `keep_seconds` if the method returns it. In these cases it is not stored, and a retry is
    executed again:

    - the method raises any exception, `Problem` included;
    - an `async def` exceeds its deadline, or the service stops;
    - the status is 408, 425, 429, or 500 and above.

    So raise an exception if nothing was done, and return a `Reply` with a 4xx status to store an error. A response that
    is streamed or larger than `max_response_bytes` is sent but not stored, and retries get 409.

    If the client disconnects, the request is still executed to completion, for at most `lock_seconds`; so is a `def`
    that exceeds its deadline. The shutdown waits for it as for any background task. After `lock_seconds`, an
    unfinished request counts as lost, and a retry is executed.

    Responses are stored in memory, unless the application provides an `IdempotencyStore`:
    `app.provide(IdempotencyStore, store)`.
    """
    options = Idempotency(required, keep_seconds, lock_seconds, max_response_bytes, principal)

    def mark(decorated: Method) -> Method:
        decorated.__idempotency__ = options  # type: ignore[attr-defined]
        return decorated

    return mark if method is None else mark(method)


def idempotency_of(method: Callable[..., Any]) -> Idempotency | None:
    """The options of `idempotent`, or None."""
    options = getattr(method, "__idempotency__", None)
    return options if isinstance(options, Idempotency) else None


def key_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The client's key; None without one. Raises a `Problem` of 400 for an invalid key."""
    values = [value for name, value in headers if name == b"idempotency-key"]
    if not values:
        return None
    value = values[0].strip()
    if len(values) == 1:
        quoted = QUOTED.fullmatch(value)
        key = re.sub(rb"\\(.)", rb"\1", quoted[1]) if quoted else value if BARE.fullmatch(value) else b""
        if 1 <= len(key) <= MAX_KEY_LENGTH:
            return key
    raise Problem(
        400, f'{HEADER} must be one string of 1 to {MAX_KEY_LENGTH} visible ASCII characters in quotes, such as "1f0c".'
    )
