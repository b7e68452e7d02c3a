"""The table of a `FakeService`: requests, and the results that they get."""

from collections.abc import Callable, Mapping
from inspect import isawaitable, isfunction, ismethod
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from .fake_messages import FakeRequest, FakeResponse
from .path_template import PathTemplate

Row = FakeResponse | Exception | type[Exception] | Callable[[FakeRequest], Any] | Any
"""A response, an exception to raise, a function of the request, `in_turn(…)`, or a value that is sent as JSON."""

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class in_turn:  # noqa: N801 - read as a verb in a table
    """The results of a row for its first request, its second request and so on. The last one is repeated."""

    def __init__(self, *results: Row) -> None:
        if not results:
            raise ValueError("in_turn needs at least one result")
        self._results = list(results)

    def take(self) -> Row:
        """The result for the next request."""
        return self._results.pop(0) if len(self._results) > 1 else self._results[0]


class Matcher(NamedTuple):
    """The method, path and query of a row."""

    method: str
    path: PathTemplate
    query: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, key: str) -> "Matcher":
        """Read the key of a row, such as `GET /products/{sku}` or `GET /prices?sku=tea`."""
        method, _, target = key.partition(" ")
        path, _, query = target.partition("?")
        if method not in METHODS or not path.startswith("/"):
            raise ValueError(
                f"the row {key!r} is not a method and a path; write it as 'GET /products/{{sku}}', "
                f"with one of {', '.join(sorted(METHODS))}"
            )
        return cls(method, PathTemplate(path), tuple(parse_qsl(query, keep_blank_values=True)))

    @property
    def rank(self) -> tuple[int, int]:
        """Rows that say more are tried first: those with a query, and those with few parameters."""
        return -len(self.query), len(self.path.names)

    def match(self, request: FakeRequest, raw_path: str) -> dict[str, str] | None:
        """The parameters in the path, or None if the request is another one."""
        if request.method != self.method:
            return None
        parameters = self.path.match(raw_path)
        pairs = request.params.multi_items()
        return parameters if all(pair in pairs for pair in self.query) else None


class FakeTable:
    """The rows of a `FakeService`."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        """Raises `ValueError` for a key that is no method and path."""
        self.keys: tuple[str, ...] = tuple(rows)
        entries = [(Matcher.of(key), Found(key, row)) for key, row in rows.items()]
        self._entries = sorted(entries, key=lambda entry: entry[0].rank)

    def find(self, request: FakeRequest, raw_path: str) -> "Found | None":
        """The row of a request, which gets its path parameters. None if there is no row for it."""
        for matcher, found in self._entries:
            parameters = matcher.match(request, raw_path)
            if parameters is not None:
                request.operation, request.path_params = found.key, parameters
                return found
        return None


class Found(NamedTuple):
    """A row that was found, with its key."""

    key: str
    row: Row


async def respond(row: Row, request: FakeRequest) -> FakeResponse:
    """The response of a row to a request. Raises the exception of the row."""
    if isinstance(row, in_turn):
        return await respond(row.take(), request)
    if isinstance(row, FakeResponse):
        return row
    if isinstance(row, Exception):
        raise row
    if isinstance(row, type) and issubclass(row, Exception):
        raise row
    if isfunction(row) or ismethod(row):
        result = row(request)
        return await respond(await result if isawaitable(result) else result, request)
    return FakeResponse(204) if row is None else FakeResponse(200, row)
