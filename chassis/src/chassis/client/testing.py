"""For tests: `FakeService`, which responds in place of another service, without a network."""

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from .fake_messages import FakeInboundResponse, FakeRequest, FakeResponse
from .fake_table import FakeTable, Found, Row, in_turn, respond
from .transport import Address, OutboundRequest

__all__ = ["FakeRequest", "FakeResponse", "FakeService", "UnexpectedRequestError", "in_turn"]


class UnexpectedRequestError(AssertionError):
    """The service under test sent a request that its dependency does not know. The test fails with this text."""


class FakeService:
    """Another service, for tests: a transport that responds from a table.

        catalogue = FakeService({
            "GET /products/{sku}": {"sku": "tea", "price": 3},
            "POST /orders": FakeResponse(201, {"id": 7}, headers={"location": "/orders/7"}),
            "DELETE /orders/{id}": None,
            "GET /stock/{sku}": lambda request: {"sku": request.path_params["sku"], "count": 3},
            "GET /prices": in_turn(FakeResponse(503), ConnectionLostError("reset"), [{"sku": "tea", "price": 3}]),
        })
        app.clients["catalogue"].use(catalogue)

    A value is sent as JSON with 200, and None is 204. Exceptions are raised, in place of a response. A function gets
    the request, and returns one of these; it may be async. Paths are those of requests, with the path of `base_url`.

    A request without a row raises `UnexpectedRequestError`. Since the service under test makes a response with 500 of
    it, it is raised again when the client closes, at the end of `connect(app)`. So the test fails with its text.
    """

    def __init__(self, rows: Mapping[str, Row] | None = None, *, otherwise: Row | None = None) -> None:
        """`otherwise` is for requests without a row. Raises `ValueError` for a row that has no method and path."""
        self.requests: list[FakeRequest] = []
        """All requests so far, also those that got an exception."""
        self._table = FakeTable(rows or {})
        self._otherwise = None if otherwise is None else Found(otherwise)
        self._unexpected: list[UnexpectedRequestError] = []

    @classmethod
    def failing(cls, error: Row) -> Self:
        """A service that fails every request with an exception, such as `ConnectionLostError`, or with a response."""
        return cls(otherwise=error)

    async def send(self, request: OutboundRequest, replica: Address) -> FakeInboundResponse:
        """Respond to a request. See `transport.Transport`."""
        received = FakeRequest(request)
        self.requests.append(received)
        response = await self._respond(received)
        if response.delay_seconds:
            await asyncio.sleep(response.delay_seconds)
        return FakeInboundResponse(response, [] if received.method == "HEAD" else response.parts())

    async def _respond(self, request: FakeRequest) -> FakeResponse:
        found = self._table.find(request) or self._otherwise
        if found is None:
            rows = ", ".join(self._table.keys) or "none"
            raise self._unexpected_request(f"has no row for {request}; its rows: {rows}")
        return await respond(found.row, request)

    def _unexpected_request(self, text: str) -> UnexpectedRequestError:
        error = UnexpectedRequestError(f"the fake service {text}")
        self._unexpected.append(error)
        return error

    def check(self) -> None:
        """Raise the first `UnexpectedRequestError` again, if there was one. The end of the client does it as well."""
        if self._unexpected:
            raise self._unexpected[0]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not isinstance(error, UnexpectedRequestError):
            self.check()
