"""The table of a `FakeService`: requests, and the results that they get."""

from collections.abc import Callable, Mapping
from inspect import isawaitable, isfunction, ismethod
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote

from .fake_messages import FakeRequest, FakeResponse

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
    segments: tuple[str, ...]
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
        return cls(method, tuple(path.split("/")), tuple(parse_qsl(query, keep_blank_values=True)))

    @property
    def rank(self) -> tuple[int, int]:
        """Rows that say more are tried first: those with a query, and those with few parameters."""
        return -len(self.query), sum(segment.startswith("{") for segment in self.segments)

    def match(self, request: FakeRequest) -> dict[str, str] | None:
        """The parameters in the path, or None if the request is another one."""
        if request.method != self.method:
            return None
        parameters = match_path(self.segments, request.raw_path)
        pairs = request.params.multi_items()
        return parameters if all(pair in pairs for pair in self.query) else None


def match_path(segments: tuple[str, ...], raw_path: str) -> dict[str, str] | None:
    """The values of the parameters of a path template in a path, decoded; None if it is another path."""
    given = raw_path.split("/")
    if len(given) != len(segments):
        return None
    parameters = {}
    for segment, encoded in zip(segments, given, strict=True):
        value = unquote(encoded)
        if segment.startswith("{") and segment.endswith("}"):
            if not value:
                return None
            parameters[segment[1:-1]] = value
        elif value != unquote(segment):
            return None
    return parameters


class FakeTable:
    """The rows of a `FakeService`."""

    def __init__(self, rows: Mapping[str, Row]) -> None:
        """Raises `ValueError` for a key that is no method and path."""
        self.keys: tuple[str, ...] = tuple(rows)
        self._rows = sorted(((Matcher.of(key), row) for key, row in rows.items()), key=lambda entry: entry[0].rank)

    def find(self, request: FakeRequest) -> "Found | None":
        """The row of a request, which gets its path parameters. None if there is no row for it."""
        for matcher, row in self._rows:
            parameters = matcher.match(request)
            if parameters is not None:
                request.path_params = parameters
                return Found(row)
        return None


class Found(NamedTuple):
    """The row that was found: it may be None itself."""

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
