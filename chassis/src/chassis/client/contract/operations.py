"""Two versions of an OpenAPI document compared, operation by operation, as a consumer sees them."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..testing.openapi_document import OpenApiDocument, Operation, find_media_type, is_json
from ..testing.openapi_schemas import Node
from .keywords import Difference, Direction
from .schemas import SchemaComparison

PARAMETER = re.compile(r"\{[^{}]*\}")


class Change(NamedTuple):
    """A change that breaks a consumer, or a warning of one that may."""

    operation: str
    text: str
    breaking: bool

    def __str__(self) -> str:
        return f"{self.operation}{self.text}."


class UnknownOperationError(ValueError):
    """A consumer uses an operation that its contract does not have."""


def compare(old: OpenApiDocument, new: OpenApiDocument, uses: Iterable[str] = ()) -> list[Change]:
    """The changes that matter to a consumer of `old`. With `uses`, only those of operations such as `GET /orders`.

    Raises `UnknownOperationError` for a use that `old` does not have.
    """
    return list(DocumentComparison(old, new).changes(list(uses)))


class DocumentComparison:
    """Compares the operations of two documents."""

    def __init__(self, old: OpenApiDocument, new: OpenApiDocument) -> None:
        self._old = old
        self._new = new
        self._requests = SchemaComparison(old.requests, new.requests, Direction.REQUEST)
        self._responses = SchemaComparison(old.responses, new.responses, Direction.RESPONSE)

    def changes(self, uses: Sequence[str]) -> Iterator[Change]:
        """The changes of the operations that are used; of all if none is named."""
        known = {shape_of(key): operation for key, operation in self._old.operations.items()}
        left = {shape_of(key): operation for key, operation in self._new.operations.items()}
        for key in uses:
            if shape_of(key) not in known:
                raise UnknownOperationError(
                    f"{self._old.name} has no operation {key!r}; it has {', '.join(self._old.operations)}"
                )
        for shape in map(shape_of, uses) if uses else known:
            old, new = known[shape], left.get(shape)
            if new is None:
                yield Change(old.key, " was removed", breaking=True)
                continue
            for difference in self._operation(old, new):
                yield Change(old.key, f": {difference.place} {difference.text}", difference.breaking)

    def _operation(self, old: Operation, new: Operation) -> Iterator[Difference]:
        yield from self._parameters(old, new)
        yield from self._body(old.body, new.body)
        for status, response in old.responses.items():
            yield from self._response(status, response, new)
        for status in new.responses:
            if status.startswith("2") and old.response(status) is None:
                yield Difference(f"the response {status}", "is new", breaking=False)
        yield from self._security(old, new)

    def _parameters(self, old: Operation, new: Operation) -> Iterator[Difference]:
        before, after = parameters_of(old), parameters_of(new)
        for key, parameter in after.items():
            subject = subject_of(parameter)
            known = before.get(key)
            if known is None:
                if parameter.get("required"):
                    yield Difference(subject, "is new and required", breaking=True)
                continue
            if parameter.get("required") and not known.get("required"):
                yield Difference(subject, "is required now", breaking=True)
            if any(known.get(name) != parameter.get(name) for name in ("style", "explode")):
                yield Difference(subject, "is written in another style now", breaking=True)
            found = self._requests.differences(known.get("schema", {}), parameter.get("schema", {}))
            yield from (inside(difference, subject) for difference in found)
        for key in before.keys() - after.keys():
            yield Difference(subject_of(before[key]), "is no longer described", breaking=False)

    def _body(self, old: Node | None, new: Node | None) -> Iterator[Difference]:
        subject = "the body of the request"
        if new is None:
            if old is not None:
                yield Difference(subject, "is no longer accepted", breaking=True)
            return
        if new.get("required") and (old is None or not old.get("required")):
            yield Difference(subject, "is required now", breaking=True)
        for media_type, node in ((old or {}).get("content") or {}).items():
            left = find_media_type(new.get("content") or {}, media_type)
            if left is None:
                yield Difference(subject, f"is no longer accepted as {media_type}", breaking=True)
            elif is_json(media_type):
                found = self._requests.differences(node.get("schema", {}), left.get("schema", {}))
                yield from (inside(difference, subject) for difference in found)

    def _response(self, status: str, old: Node, operation: Operation) -> Iterator[Difference]:
        subject = f"the response {status.lower()}"
        new = operation.response(status) if status != "DEFAULT" else operation.responses.get(status)
        if new is None:
            yield Difference(subject, "was removed", breaking=status != "DEFAULT")
            return
        for media_type, node in (old.get("content") or {}).items():
            left = find_media_type(new.get("content") or {}, media_type)
            if left is None:
                yield Difference(subject, f"is no longer sent as {media_type}", breaking=True)
            elif is_json(media_type):
                found = self._responses.differences(node.get("schema", {}), left.get("schema", {}))
                yield from (inside(difference, subject) for difference in found)
        names = {name.lower() for name in new.get("headers") or {}}
        for name in old.get("headers") or {}:
            if name.lower() not in names:
                yield Difference(f"the header {name!r} of {subject}", "was removed", breaking=True)

    def _security(self, old: Operation, new: Operation) -> Iterator[Difference]:
        """Each way to authenticate must still be accepted, without further credentials or scopes."""
        before = [credentials(way, self._old) for way in old.security] or [{}]
        after = [credentials(way, self._new) for way in new.security] or [{}]
        for way in before:
            if not any(is_enough(way, needed) for needed in after):
                accepted = " or ".join(words(needed) for needed in after)
                yield Difference("the authentication", f"was {words(way)} and is {accepted} now", breaking=True)


def shape_of(key: str) -> str:
    """An operation without the names of its path parameters, which no request has."""
    return PARAMETER.sub("{}", key)


def parameters_of(operation: Operation) -> dict[tuple[str, str], Node]:
    """The parameters by their places and names. Those of the path have positions in place of names."""
    positions = [name[1:-1] for name in PARAMETER.findall(operation.path)]
    parameters = {}
    for parameter in operation.parameters:
        name, place = str(parameter.get("name")), str(parameter.get("in"))
        if place == "path" and name in positions:
            name = str(positions.index(name))
        parameters[place, name.lower() if place == "header" else name] = parameter
    return parameters


def subject_of(parameter: Node) -> str:
    """A parameter in a sentence."""
    return f"the {parameter.get('in')} parameter {parameter.get('name')!r}"


def inside(difference: Difference, subject: str) -> Difference:
    """A difference of a schema, with the whole place in words."""
    place = f"the member {difference.place!r} of {subject}" if difference.place else subject
    return Difference(place, difference.text, difference.breaking)


Credentials = Mapping[str, frozenset[str]]


def credentials(way: Mapping[str, Sequence[str]], document: OpenApiDocument) -> Credentials:
    """The credentials of one way to authenticate, by what they are and not by their names, with their scopes."""
    schemes = document.security_schemes()
    return {kind_of_scheme(schemes.get(name, {"type": name})): frozenset(scopes) for name, scopes in way.items()}


def kind_of_scheme(scheme: Node) -> str:
    """The credentials of a security scheme."""
    match scheme.get("type"):
        case "http":
            return f"HTTP {scheme.get('scheme')}"
        case "apiKey":
            return f"the {scheme.get('in')} {scheme.get('name')!r}"
        case kind:
            return str(kind)


def is_enough(given: Credentials, needed: Credentials) -> bool:
    """Whether a request with these credentials is accepted."""
    return all(name in given and scopes <= given[name] for name, scopes in needed.items())


def words(way: Credentials) -> str:
    """Credentials in a sentence."""
    parts = [f"{name} ({', '.join(sorted(scopes))})" if scopes else name for name, scopes in way.items()]
    return " with ".join(parts) or "none"
