"""A service by its OpenAPI document: what it accepts, and how it responds. `FakeService.from_openapi` uses it."""

from collections.abc import Iterator
from http import HTTPStatus

import orjson

from .fake_messages import FakeRequest, FakeResponse
from .openapi_document import OpenApiDocument, Operation, find_media_type, is_json, json_content
from .openapi_schemas import Node
from .path_template import PathTemplate
from .schema_examples import Examples, NoExampleError
from .schema_validation import Validator

# A proxy, a limit or a crash responds with these, whatever the document says.
ALWAYS_POSSIBLE = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
BODILESS = frozenset({HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED})
# OpenAPI 3.1, section 4.8.12.1: header parameters of these names are ignored.
NOT_PARAMETERS = frozenset({"accept", "content-type", "authorization"})


class OpenApiService:
    """Checks requests and responses against a document, and makes responses."""

    def __init__(self, document: OpenApiDocument) -> None:
        """Raises `MissingLibraryError` without `jsonschema`."""
        self._document = document
        self._requests = Validator(document.requests)
        self._responses = Validator(document.responses)
        self._examples = Examples(document.responses)
        self._paths = sorted(
            ((PathTemplate(operation.path), operation) for operation in document.operations.values()),
            key=lambda entry: len(entry[0].names),
        )

    def find(self, request: FakeRequest) -> tuple[Operation | None, str]:
        """The operation of a request, which gets its path parameters, and the path without that of the server.

        None and a phrase if there is no such operation.
        """
        methods = set[str]()
        for prefix in (*self._document.prefixes, ""):
            raw_path = request.raw_path.removeprefix(prefix)
            for path, operation in self._paths:
                parameters = path.match(raw_path)
                if parameters is None:
                    continue
                if operation.method == request.method:
                    request.operation, request.path_params = operation.key, parameters
                    return operation, raw_path
                methods.add(operation.method)
        if methods:
            return None, f"has only {', '.join(sorted(methods))} at this path"
        return None, f"has no such path; its operations: {', '.join(self._document.operations)}"

    def request_errors(self, request: FakeRequest, operation: Operation) -> list[str]:
        """How a request differs from the document."""
        return [*self._parameter_errors(request, operation), *self._body_errors(request, operation)]

    def _parameter_errors(self, request: FakeRequest, operation: Operation) -> Iterator[str]:
        names = set()
        open_query = False
        for parameter in operation.parameters:
            name, place = str(parameter.get("name")), parameter.get("in")
            names.add((place, name))
            if place == "query" and is_object(self._document.requests.flatten(parameter.get("schema", {}))[0]):
                open_query = True  # its members are parameters too
                continue
            if place == "cookie" or (place == "header" and name.lower() in NOT_PARAMETERS):
                continue
            values = values_of(request, str(place), name)
            if not values:
                if parameter.get("required"):
                    yield f"the {place} parameter {name!r} is missing"
                continue
            errors = self._requests.parameter_errors(values, parameter)
            yield from (f"the {place} parameter {name!r}: {error}" for error in errors)
        for name in request.params:
            if not open_query and ("query", name) not in names:
                yield f"there is no query parameter {name!r}"

    def _body_errors(self, request: FakeRequest, operation: Operation) -> Iterator[str]:
        body = operation.body
        if not request.body:
            if body is not None and body.get("required"):
                yield "the body is missing"
            return
        if body is None:
            yield "a body is not expected"
            return
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        node = find_media_type(body.get("content", {}), media_type)
        if node is None:
            yield f"the content type {media_type!r} is not one of {', '.join(body.get('content', {}))}"
        elif is_json(media_type):
            try:
                value = request.json
            except orjson.JSONDecodeError:
                yield "the body is not JSON"
                return
            yield from (f"the body: {error}" for error in self._requests.errors(value, node.get("schema", {})))

    def example(self, operation: Operation) -> FakeResponse:
        """The successful response of an operation, from its example or its schema. Raises `NoExampleError`."""
        statuses = sorted(status for status in operation.responses if status.startswith("2"))
        status = statuses[0].replace("XX", "00") if statuses else "200"
        return self.complete(FakeResponse(int(status)), operation)

    def complete(self, response: FakeResponse, operation: Operation) -> FakeResponse:
        """A response with the content type, and the body if it has none, that the document has for its status."""
        node = operation.response(response.status)
        found = json_content(self._document.responses.resolve(node).get("content")) if node else None
        if found is None or response.content is not None or response.status in BODILESS:
            return response
        media_type, schema = found
        json = response.json
        if json is None:
            json = self._examples.of_media_type(schema)
            errors = self._responses.errors(json, schema.get("schema", {}))
            if errors:
                raise NoExampleError(f"the example {json!r} is not valid: {'; '.join(errors)}")
        return FakeResponse(
            response.status, json, {"content-type": media_type} | dict(response.headers), None, response.delay_seconds
        )

    def response_errors(self, response: FakeResponse, operation: Operation) -> Iterator[str]:
        """How a response differs from the document. Errors of the server are always possible."""
        node = operation.response(response.status)
        if node is None:
            if response.status < HTTPStatus.INTERNAL_SERVER_ERROR and response.status not in ALWAYS_POSSIBLE:
                yield f"{response.status} is not one of its statuses: {', '.join(operation.responses)}"
            return
        parts = response.parts()
        if not parts or any(isinstance(part, Exception) for part in parts):
            return
        content: Node = node.get("content") or {}
        media_type = response.all_headers().get("content-type", "").partition(";")[0].strip().lower()
        schema = find_media_type(content, media_type)
        if schema is None:
            yield f"the content type {media_type!r} is not one of {', '.join(content) or 'none'}"
        elif is_json(media_type):
            value = orjson.loads(b"".join(part for part in parts if isinstance(part, bytes)))
            yield from self._responses.errors(value, schema.get("schema", {}))


def values_of(request: FakeRequest, place: str, name: str) -> list[str]:
    """The values of a parameter in a request."""
    if place == "path":
        return [request.path_params[name]] if name in request.path_params else []
    if place == "query":
        return request.params.getlist(name) or request.params.getlist(f"{name}[]")
    return request.headers.getlist(name)


def is_object(schema: Node) -> bool:
    """Whether the values of a schema are objects."""
    return schema.get("type") == "object" or "properties" in schema
