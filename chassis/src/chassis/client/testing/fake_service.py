"""For tests: `FakeService`, which responds in place of another service, without a network."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ..transport import Address, OutboundRequest
from .fake_messages import FakeInboundResponse, FakeRequest, FakeResponse
from .fake_table import FakeTable, Row, respond
from .openapi_document import OpenApiDocument
from .openapi_service import OpenApiService
from .schema_examples import NoExampleError


class FakeServiceError(AssertionError):
    """The service under test sent a request that its dependency does not know. The test fails with this text."""


class FakeService:
    """Another service, for tests: a transport that responds from a table.

        catalogue = FakeService({"GET /products/{sku}": {"sku": "tea"}, "POST /orders": FakeResponse(201)})
        app.clients["catalogue"].use(catalogue)

    A value is sent as JSON with 200, and None is 204. An exception is raised in place of a response. A function gets
    the `FakeRequest` and returns one of these; it may be async. `in_turn(…)` has a result for each request. Paths are
    those of requests, with the path of `base_url`.

    A request without a row raises `FakeServiceError`. The service under test responds to it with 500, so the error is
    raised again when the client closes, at the end of `connect(app)`. The test fails with its text.
    """

    def __init__(self, rows: Mapping[str, Row] | None = None, *, otherwise: Row | None = None) -> None:
        """`otherwise` is for requests without a row. Raises `ValueError` for a row that has no method and path."""
        self.requests: list[FakeRequest] = []
        """All requests so far, also those that got an exception."""
        self._table = FakeTable(rows or {})
        self._otherwise = otherwise
        self._errors: list[FakeServiceError] = []

    @classmethod
    def failing(cls, error: Row) -> Self:
        """A service that fails every request with an exception, such as `ConnectionLostError`, or with a response."""
        return cls(otherwise=error)

    @staticmethod
    def from_openapi(
        document: str | Path | Mapping[str, Any], rows: Mapping[str, Row] | None = None
    ) -> "OpenApiFakeService":
        """A service that responds as its OpenAPI document says. See `OpenApiFakeService`."""
        return OpenApiFakeService(document, rows)

    @property
    def operations(self) -> list[str]:
        """The rows or operations that were used, such as `GET /products/{sku}`, each once."""
        return sorted({request.operation for request in self.requests if request.operation})

    async def send(self, request: OutboundRequest, replica: Address) -> FakeInboundResponse:
        """Respond to a request. See `transport.Transport`."""
        received = FakeRequest(request)
        self.requests.append(received)
        response = await self._respond(received)
        if response.delay_seconds:
            await asyncio.sleep(response.delay_seconds)
        return FakeInboundResponse(response, [] if received.method == "HEAD" else response.parts())

    async def _respond(self, request: FakeRequest) -> FakeResponse:
        found = self._table.find(request, request.raw_path)
        if found is not None:
            return await respond(found.row, request)
        if self._otherwise is not None:
            return await respond(self._otherwise, request)
        raise self._failure(f"has no row for {request}; its rows: {', '.join(self._table.keys) or 'none'}")

    def _failure(self, text: str) -> FakeServiceError:
        error = FakeServiceError(f"the fake service {text}")
        self._errors.append(error)
        return error

    def check(self) -> None:
        """Raise the first `FakeServiceError` again, if there was one. The end of the client does it as well."""
        if self._errors:
            raise self._errors[0]

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not isinstance(error, FakeServiceError):
            self.check()


class OpenApiFakeService(FakeService):
    """Another service, for tests, that responds as its OpenAPI document says.

        catalogue = FakeService.from_openapi("contracts/catalogue.json", {"GET /stock/{sku}": {"count": 0}})

    A request that is not as in the document raises `FakeServiceError`: its path, method, parameters, content type or
    body. The response is the example of the document, or is made from its schema. Rows replace operations. Their
    responses must be as in the document too, except that 429 and all server errors are always possible. A row that has
    only a status, such as `FakeResponse(404)`, gets its body from the document.
    """

    def __init__(self, document: str | Path | Mapping[str, Any], rows: Mapping[str, Row] | None = None) -> None:
        """`document` is a path, a URL or what was read from JSON.

        Raises `DocumentError` for another document, `ValueError` for a row that is none of its operations, and
        `ImportError` without the library `jsonschema`.
        """
        super().__init__(rows)
        self._document = OpenApiDocument.read(document)
        self._service = OpenApiService(self._document)
        for key in self._table.keys:
            method, _, target = key.partition(" ")
            operation, phrase = self._service.find(FakeRequest(OutboundRequest(method, target, {})))
            if operation is None:
                raise ValueError(f"the row {key!r} is no operation: {self._document.name} {phrase}")

    async def _respond(self, request: FakeRequest) -> FakeResponse:
        operation, path = self._service.find(request)
        if operation is None:
            raise self._failure(f"of {self._document.name} {path}; the request was {request}")
        errors = self._service.request_errors(request, operation)
        if errors:
            raise self._failure(f"of {self._document.name} does not accept {request}: {'; '.join(errors)}")
        found = self._table.find(request, path)
        request.operation = operation.key
        try:
            if found is None:
                return self._service.example(operation)
            response = self._service.complete(await respond(found.row, request), operation)
        except NoExampleError as error:
            raise self._failure(f"of {self._document.name} has no response to {request}: {error}") from error
        errors = list(self._service.response_errors(response, operation))
        if errors:
            raise self._failure(f"of {self._document.name} never responds so to {request}: {'; '.join(errors)}")
        return response
