"""Idempotency keys: a request that a client repeats is executed once (draft-ietf-httpapi-idempotency-key-header-07)."""

import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar, overload

from starlette.requests import Request

from ..problem import Problem

Method = TypeVar("Method", bound=Callable[..., Any])
Principal = Callable[[Request], str | Awaitable[str]]

HEADER = "Idempotency-Key"
REPLAYED = "idempotency-replayed"
MAX_KEY_LENGTH = 255
DAY_SECONDS = 86_400.0
# A String of Structured Fields (RFC 9651, section 3.3.3), perhaps with parameters; most clients send no quotes.
QUOTED = re.compile(rb'"((?:[ !#-\[\]-~]|\\["\\])*)"[ ]*(?:;.*)?')
BARE = re.compile(rb"[!#-+\--:<-\[\]-~]+")  # what is visible, but no quotation mark, comma, semicolon or backslash
# For OpenAPI: the problems that an idempotent operation has beside its own.
PROBLEMS = {
    400: "The Idempotency-Key is missing or malformed.",
    409: "A request with this Idempotency-Key has not been completed, or its response was not kept.",
    422: "The Idempotency-Key was used for another request.",
}


@dataclass(frozen=True, slots=True)
class Idempotency:
    """What `idempotent` says about a method."""

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
    """Execute a request with an `Idempotency-Key` once, however often the client sends it; for `post` and `patch`.

    A repeated request gets the first response, with `idempotency-replayed: true`. The same key with another query or
    body is 422, and while the first request lasts 409. The key is a quoted string, as in the draft, or bare: both are
    the same key. It belongs to the method, the path, and the principal: `principal` is a function of the request, by
    default the value of the Authorization header. Give one if a user's token changes or is in a cookie.

    A response that the method returns is kept for `keep_seconds`. It is not kept, and a repeated request is executed
    again, if the method raises anything, `Problem` included, if an `async def` passes its deadline or the service
    stops, and if the status is 408, 425, 429, or 500 and above. So raise when nothing was done, and return a `Reply`
    with a status of 4xx to keep a failure. A response that is streamed or larger than `max_response_bytes` is sent,
    and a repeated request gets 409 instead of it.

    The request is executed to its end when its client disconnects; so is a `def` when it passes its deadline. It may
    take `lock_seconds`, and the shutdown waits for it as for any background task.

    Without a key the request is executed as any other, or is 400 with `required`. After `lock_seconds` a request
    counts as lost, together with the process that executed it. Responses are in memory, unless the application
    provides an `IdempotencyStore`: `app.provide(IdempotencyStore, store)`.
    """
    options = Idempotency(required, keep_seconds, lock_seconds, max_response_bytes, principal)

    def mark(marked: Method) -> Method:
        marked.__idempotency__ = options  # type: ignore[attr-defined]
        return marked

    return mark if method is None else mark(method)


def idempotency_of(method: Callable[..., Any]) -> Idempotency | None:
    """What `idempotent` says, or None."""
    options = getattr(method, "__idempotency__", None)
    return options if isinstance(options, Idempotency) else None


def key_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The client's key; None without one. Raises a `Problem` of 400 for what is none."""
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
