"""`FakeRequest` and `FakeResponse`: the requests that a `FakeService` receives, and its responses."""

from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import orjson
from pydantic_core import to_json
from starlette.datastructures import Headers, QueryParams

from ..transport import OutboundRequest, ResponseTooLargeError

JSON = "application/json"


class FakeRequest:
    """A request that a `FakeService` has received."""

    def __init__(self, request: OutboundRequest) -> None:
        raw_path, _, query = request.target.partition("?")
        self.method: str = request.method
        self.raw_path: str = raw_path
        self.params: QueryParams = QueryParams(query)
        self.headers: Headers = Headers(dict(request.headers))
        self.body: bytes = request.body or b""
        self.operation: str = ""
        """The row or the operation of the request, such as `GET /products/{sku}`."""
        self.path_params: dict[str, str] = {}
        """The parameters in its path, such as `sku`."""

    @property
    def path(self) -> str:
        """The path, decoded and without the query."""
        return unquote(self.raw_path)

    @property
    def json(self) -> Any:
        """The body, read as JSON. None without a body."""
        return orjson.loads(self.body) if self.body else None

    def __str__(self) -> str:
        query = f"?{self.params}" if self.params else ""
        return f"{self.method} {self.raw_path}{query}"

    __repr__ = __str__


@dataclass(frozen=True)
class FakeResponse:
    """A response of a `FakeService`. It has `json`, or `content`, or no body.

    `json` may hold pydantic models, dataclasses and dates. `content` is the body or its parts. An exception
    among the parts is raised at its place: `ConnectionLostError` for a body that ends too early. The response begins
    after `delay_seconds`, which is for tests of timeouts and hedges.
    """

    status: int = 200
    json: Any = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    content: bytes | Iterable[bytes | Exception] | None = None
    delay_seconds: float = 0.0

    def parts(self) -> list[bytes | Exception]:
        """The parts of the body."""
        if self.content is not None:
            return [self.content] if isinstance(self.content, bytes) else list(self.content)
        return [] if self.json is None else [to_json(self.json)]

    def all_headers(self) -> Headers:
        """The headers, with the content type of `json`."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        if self.content is None and self.json is not None:
            headers.setdefault("content-type", JSON)
        return Headers(headers)


class FakeInboundResponse:
    """A `FakeResponse` as a client receives it. See `transport.InboundResponse`."""

    http_version = "1.1"

    def __init__(self, response: FakeResponse, parts: list[bytes | Exception]) -> None:
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.all_headers()
        self._parts = parts

    async def read(self, limit: int) -> bytes:
        """The whole body."""
        body = b"".join([part async for part in self.chunks()])
        if len(body) > limit:
            raise ResponseTooLargeError(f"the body has {len(body)} bytes; {limit} are allowed")
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        """The parts of the body."""
        for part in self._parts:
            if isinstance(part, Exception):
                raise part
            yield part

    def close(self) -> None:
        """There is no connection."""
