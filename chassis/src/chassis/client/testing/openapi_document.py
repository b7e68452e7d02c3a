"""`OpenApiDocument`: the OpenAPI 3 document of another service, read from a file, a URL or a dictionary."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx

from .openapi_schemas import Node, convert, merge, without_hidden

FETCH_SECONDS = 10.0
# Levels of `allOf` inside of each other: more are a circle.
MOST_NESTED = 50
HTTP_METHODS = ("get", "head", "post", "put", "patch", "delete", "options", "trace")


class DocumentError(ValueError):
    """This is no OpenAPI 3 document, or it cannot be read."""


class Schemas:
    """A document as requests see it, or responses: with its references, and without what the other side alone has."""

    def __init__(self, root: Node, name: str) -> None:
        self.root = root
        self._name = name

    def resolve(self, node: Any) -> Node:
        """A node, or the node that its `$ref` names. Members beside a `$ref` are added to it.

        Raises `DocumentError` for a reference that leads to nothing, to itself or out of the document.
        """
        seen: list[str] = []
        while isinstance(node, dict) and "$ref" in node:
            reference = str(node["$ref"])
            if reference in seen:
                raise DocumentError(f"{self._name}: the reference {reference!r} leads to itself")
            seen.append(reference)
            target = self._find(reference)
            node = target | {name: value for name, value in node.items() if name != "$ref"}
        return self.as_object(node)

    def as_object(self, node: Any) -> Node:
        """A node that must be an object. In place of a schema, `true` accepts everything and `false` nothing."""
        if isinstance(node, bool):
            return {} if node else {"not": {}}
        if not isinstance(node, dict):
            raise DocumentError(f"{self._name}: an object is expected in place of {node!r:.80}")
        found: Node = node
        return found

    def flatten(self, node: Any) -> tuple[Node, frozenset[str]]:
        """A schema with its `$ref` and `allOf` in place, and the references that were followed."""
        references: set[str] = set()
        schema = {"allOf": [node]}
        for _ in range(MOST_NESTED):
            parts = schema.pop("allOf", None)
            if parts is None:
                return schema, frozenset(references)
            references |= {part["$ref"] for part in parts if isinstance(part, dict) and "$ref" in part}
            schema = merge([schema, *(self.resolve(part) for part in parts)])
        raise DocumentError(f"{self._name}: {sorted(references)} are in each other's allOf")

    def _find(self, reference: str) -> Node:
        node: Any = self.root
        if not reference.startswith("#/"):
            raise DocumentError(
                f"{self._name}: the reference {reference!r} leads out of the document; bundle it into one file first"
            )
        for part in reference[2:].split("/"):
            name = unquote(part).replace("~1", "/").replace("~0", "~")
            try:
                node = node[int(name)] if isinstance(node, list) else node[name]
            except (KeyError, IndexError, ValueError, TypeError):
                raise DocumentError(f"{self._name}: the reference {reference!r} leads to nothing") from None
        return self.as_object(node)


@dataclass(frozen=True)
class Operation:
    """A method of a path."""

    method: str
    path: str
    parameters: Sequence[Node]
    body: Node | None
    responses: Mapping[str, Node]
    security: Sequence[Mapping[str, Sequence[str]]]

    @property
    def key(self) -> str:
        """Its name, such as `GET /products/{sku}`."""
        return f"{self.method} {self.path}"

    def response(self, status: int | str) -> Node | None:
        """The documented response of a status: its own, that of its class (`4XX`), or the default."""
        text = str(status).upper()
        return self.responses.get(text) or self.responses.get(f"{text[0]}XX") or self.responses.get("DEFAULT")


class OpenApiDocument:
    """The operations of a document, with the schemas of requests and of responses."""

    def __init__(self, document: Any, name: str = "the document") -> None:
        """`name` is that of its file or URL, for errors. Raises `DocumentError` unless it is OpenAPI 3."""
        version = document.get("openapi") if isinstance(document, dict) else None
        if not isinstance(version, str) or not version.startswith("3.") or not isinstance(document.get("paths"), dict):
            raise DocumentError(f"{name} is no OpenAPI 3 document: it needs the members openapi (3.x) and paths")
        current = convert(document) if version.startswith("3.0") else document
        self.name: str = name
        self.source: Node = document
        self.requests: Schemas = Schemas(without_hidden(current, "readOnly"), name)
        self.responses: Schemas = Schemas(without_hidden(current, "writeOnly"), name)
        self.operations: dict[str, Operation] = {operation.key: operation for operation in self._operations()}

    @classmethod
    def read(cls, source: "str | Path | Mapping[str, Any] | OpenApiDocument") -> "OpenApiDocument":
        """Read a document from a path, a URL or a dictionary. Raises `DocumentError`."""
        if isinstance(source, OpenApiDocument):
            return source
        if isinstance(source, Mapping):
            return cls(dict(source))
        text = read_text(source)
        try:
            return cls(json.loads(text), str(source))
        except json.JSONDecodeError as error:
            raise DocumentError(f"{source} is not JSON: {error}") from None

    @property
    def prefixes(self) -> list[str]:
        """The paths of its servers, such as `/v1`."""
        servers = self.requests.root.get("servers") or []
        return [path for server in servers if (path := urlsplit(str(server.get("url"))).path.rstrip("/"))]

    def security_schemes(self) -> Node:
        """The ways to authenticate, by their names."""
        components: Node = self.requests.root.get("components") or {}
        schemes = components.get("securitySchemes") or {}
        return {name: self.requests.resolve(scheme) for name, scheme in schemes.items()}

    def _operations(self) -> Iterator[Operation]:
        default_security = self.requests.root.get("security") or []
        for path, node in self.requests.root["paths"].items():
            item = self.requests.resolve(node)
            for method in HTTP_METHODS:
                if method not in item:
                    continue
                operation = self.requests.resolve(item[method])
                responding = self.responses.resolve(self.responses.resolve(self.responses.root["paths"][path])[method])
                body = operation.get("requestBody")
                yield Operation(
                    method=method.upper(),
                    path=path,
                    parameters=self._parameters(item, operation),
                    body=None if body is None else self.requests.resolve(body),
                    responses={
                        str(status).upper(): self.responses.resolve(response)
                        for status, response in (responding.get("responses") or {}).items()
                    },
                    security=operation.get("security", default_security) or (),
                )

    def _parameters(self, item: Node, operation: Node) -> list[Node]:
        """The parameters of an operation, with those of its path."""
        parameters = {}
        for node in (*item.get("parameters", ()), *operation.get("parameters", ())):
            parameter = self.requests.resolve(node)
            parameters[parameter.get("in"), parameter.get("name")] = parameter
        return list(parameters.values())


def read_text(source: str | Path) -> str:
    """The text of a file or a URL. Raises `DocumentError`."""
    try:
        if str(source).startswith(("http://", "https://")):
            response = httpx.get(str(source), timeout=FETCH_SECONDS, follow_redirects=True)
            return response.raise_for_status().text
        return Path(source).read_text(encoding="utf-8")
    except (httpx.HTTPError, OSError, UnicodeError) as error:
        raise DocumentError(f"{source} cannot be read: {error}") from error


def json_content(content: Node | None) -> tuple[str, Node] | None:
    """The first JSON media type of a body, with its schema and examples. None if there is no JSON."""
    for media_type, node in (content or {}).items():
        if is_json(media_type):
            return media_type, node
    return None


def is_json(media_type: str) -> bool:
    """Whether a media type is JSON, such as `application/json` and `application/problem+json`."""
    name = media_type.partition(";")[0].strip().lower()
    return name == "application/json" or name.endswith("+json")


def find_media_type(content: Node, media_type: str) -> Node | None:
    """The entry of a media type, or of the range that it is in, such as `text/*`."""
    wanted = media_type.partition(";")[0].strip().lower()
    for name, node in content.items():
        known = name.partition(";")[0].strip().lower()
        if known in (wanted, "*/*") or (known.endswith("/*") and wanted.startswith(known[:-1])):
            found: Node = node
            return found
    return None
