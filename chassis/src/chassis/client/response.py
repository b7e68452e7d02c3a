"""`Response`: a complete response of another service, and the error for one with an unexpected status."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from .errors import BadResponseError, DependencyError

T = TypeVar("T")
# The status that the caller gets for one of the dependency; for all others 502.
STATUSES: dict[int, int] = {429: 503, 503: 503, 504: 504}
_adapters: dict[Any, TypeAdapter[Any]] = {}


class Response:
    """A response whose body has arrived. Names in `headers` are case-insensitive; `body` is decoded."""

    __slots__ = ("body", "dependency", "headers", "status")

    def __init__(self, dependency: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.dependency: str = dependency
        self.status: int = status
        self.headers: Mapping[str, str] = headers
        self.body: bytes = body

    @property
    def text(self) -> str:
        """The body as UTF-8 text. Invalid bytes are replaced."""
        return self.body.decode(errors="replace")

    def json(self) -> Any:
        """The body, read as JSON. Raises `BadResponseError` if it is none."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError as error:
            raise BadResponseError(self.dependency, "responded with a body that is not JSON") from error

    def parse(self, expected: type[T]) -> T:
        """The body, read as JSON and validated as `expected`, such as a pydantic model or `list[Order]`.

        Raises `BadResponseError`, whose cause names the fields that do not match.
        """
        adapter = _adapters.get(expected)
        if adapter is None:
            adapter = _adapters[expected] = TypeAdapter(expected)  # the types are those in the code of the service
        try:
            value: T = adapter.validate_json(self.body)
        except ValidationError as error:
            raise BadResponseError(self.dependency, "responded with a body that does not match its type") from error
        return value


class UnexpectedStatusError(DependencyError):
    """The response has a status that the caller did not expect: 502, 503 for 429 and 503, or 504 for 504.

    `response` is complete, for handlers that look at it.
    """

    def __init__(self, dependency: str, response: Response, *, retry_after: int | None = None) -> None:
        super().__init__(dependency, f"responded with {response.status}", retry_after=retry_after)
        self.response: Response = response
        self.status: int = STATUSES.get(response.status, HTTPStatus.BAD_GATEWAY)
        self.is_outage: bool = (
            response.status >= HTTPStatus.INTERNAL_SERVER_ERROR or response.status == HTTPStatus.TOO_MANY_REQUESTS
        )
