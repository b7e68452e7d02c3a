"""`Verbs`: a method for each method of HTTP, on top of `request`."""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, TypedDict, TypeVar, Unpack, overload

from .request_target import Query
from .response import Response

T = TypeVar("T")


class CallOptions(TypedDict, total=False):
    """The keywords of a call."""

    path: Mapping[str, object]
    """The values of the route's parameters. They are percent-encoded."""
    params: Query
    """The query: names with values. A list gives a name several values, and None leaves it out."""
    headers: Mapping[str, str]
    json: Any
    """The body, sent as JSON: also pydantic models, dataclasses, dates, UUIDs."""
    content: bytes | str
    """The body as it is; text is sent as UTF-8. Set `content-type` in `headers`."""
    expect: Collection[int]
    """Statuses that are returned, and do not raise `UnexpectedStatusError`, beside 2xx."""
    idempotency_key: str
    """Sent as `Idempotency-Key`. Then a request of any method may be sent again after a failure."""
    timeout_seconds: float
    """The time of this call, in place of that of the settings."""


class Verbs:
    """The methods of HTTP. Each takes a route such as `/products/{sku}`, and the keywords of `CallOptions`.

    With `returns`, the result is the body, validated as this type; else it is the `Response`.
    """

    @abstractmethod
    async def _request(self, method: str, route: str, returns: type[T] | None, options: CallOptions) -> T | Response:
        """Make a call."""

    @overload
    async def request(self, method: str, route: str, *, returns: type[T], **options: Unpack[CallOptions]) -> T: ...
    @overload
    async def request(
        self, method: str, route: str, *, returns: None = None, **options: Unpack[CallOptions]
    ) -> Response: ...
    async def request(
        self, method: str, route: str, *, returns: type[T] | None = None, **options: Unpack[CallOptions]
    ) -> T | Response:
        """Make a call. Raises a `DependencyError` for every failure, and `PathValueError` for a value in `path`."""
        return await self._request(method, route, returns, options)

    @overload
    async def get(self, route: str, *, returns: type[T], **options: Unpack[CallOptions]) -> T: ...
    @overload
    async def get(self, route: str, *, returns: None = None, **options: Unpack[CallOptions]) -> Response: ...
    async def get(self, route: str, *, returns: type[T] | None = None, **options: Unpack[CallOptions]) -> T | Response:
        """Read a resource."""
        return await self._request("GET", route, returns, options)

    async def head(self, route: str, **options: Unpack[CallOptions]) -> Response:
        """Read the header section of a response."""
        return await self.request("HEAD", route, **options)

    @overload
    async def post(self, route: str, *, returns: type[T], **options: Unpack[CallOptions]) -> T: ...
    @overload
    async def post(self, route: str, *, returns: None = None, **options: Unpack[CallOptions]) -> Response: ...
    async def post(self, route: str, *, returns: type[T] | None = None, **options: Unpack[CallOptions]) -> T | Response:
        """Process `json` or `content`. It is sent again after a failure only if it is safe: see `idempotency_key`."""
        return await self._request("POST", route, returns, options)

    @overload
    async def put(self, route: str, *, returns: type[T], **options: Unpack[CallOptions]) -> T: ...
    @overload
    async def put(self, route: str, *, returns: None = None, **options: Unpack[CallOptions]) -> Response: ...
    async def put(self, route: str, *, returns: type[T] | None = None, **options: Unpack[CallOptions]) -> T | Response:
        """Replace a resource."""
        return await self._request("PUT", route, returns, options)

    @overload
    async def patch(self, route: str, *, returns: type[T], **options: Unpack[CallOptions]) -> T: ...
    @overload
    async def patch(self, route: str, *, returns: None = None, **options: Unpack[CallOptions]) -> Response: ...
    async def patch(
        self, route: str, *, returns: type[T] | None = None, **options: Unpack[CallOptions]
    ) -> T | Response:
        """Change a resource."""
        return await self._request("PATCH", route, returns, options)

    @overload
    async def delete(self, route: str, *, returns: type[T], **options: Unpack[CallOptions]) -> T: ...
    @overload
    async def delete(self, route: str, *, returns: None = None, **options: Unpack[CallOptions]) -> Response: ...
    async def delete(
        self, route: str, *, returns: type[T] | None = None, **options: Unpack[CallOptions]
    ) -> T | Response:
        """Delete a resource."""
        return await self._request("DELETE", route, returns, options)
