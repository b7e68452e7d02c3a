"""The signature of a handler's method: the source of each argument, and the type of the result."""

import inspect
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Collection, Hashable, Mapping
from types import NoneType, UnionType
from typing import Annotated, Any, Never, NoReturn, Union, get_args, get_origin, get_type_hints

from pydantic import (
    BeforeValidator,
    TypeAdapter,
)
from pydantic.fields import FieldInfo
from starlette.convertors import Convertor, PathConvertor, StringConvertor
from starlette.requests import Request
from starlette.responses import Response

from .annotations import (
    has_generator,
    has_type_variable,
    holds_file,
    model_of,
    unwrap_alias,
)
from .callables import annotated, innermost, parameters_of, unresolved
from .errors import SignatureError, UnprovidedError
from .handler import Reply
from .parameter_maker import NO_DEFAULT, ParameterMaker
from .parameters import Parameter
from .sources import Form, Path, Query

NEVER = (Never, NoReturn)
STREAMS = (AsyncIterator, AsyncIterable, AsyncGenerator)

Condition = Callable[[str, Any], bool]
Addition = Callable[[str, Any, Any], None]


class Signature:
    """The parameters of `method` in a request, and the type of its result.

    `convertors` has the parameters of the route's path, `provided` the types that the application provides. Raises
    `SignatureError` for an unsupported signature, so that mistakes show at the start.
    """

    def __init__(
        self,
        name: str,
        method: Callable[..., Any],
        convertors: Mapping[str, Convertor[Any]],
        provided: Collection[Hashable] = (),
    ) -> None:
        self.name = name
        self.parameters: list[Parameter] = []
        self.body: TypeAdapter[Any] | None = None
        """The type of the JSON body, or of the raw body if `body_is_raw`."""
        self.body_is_raw: bool = False
        self.streams_body: bool = False
        """Whether `body` is an async iterator over the chunks of the body."""
        self.body_is_optional: bool = False
        self.provided: dict[str, Hashable] = {}
        """The types of the arguments that the application provides."""
        self.needs_request: bool = False
        self.function: Callable[..., Any] = innermost(method)
        self._make = ParameterMaker(name)
        self._convertors = convertors
        self._provided = provided
        # The first row whose condition is true decides the source of an argument.
        self._sources: tuple[tuple[Condition, Addition], ...] = (
            (self._is_request, self._add_request),
            (self._is_provided, self._add_provided),
            (self._is_marked, self._add_marked),
            (self._is_body, self._add_body),
            (self._is_file, self._add_file),
            (self._is_in_path, self._add_path),
            (self._is_in_query, self._add_query),
        )
        parameters, hints = self._declared(method)
        self.annotations: list[Any] = [hints.get(name) for name in parameters]
        for parameter in parameters.values():
            self._add(parameter, hints)
        if self.has_form and (self.body is not None or self.streams_body):
            raise SignatureError(f"{name}: 'body' and form fields cannot be combined; a request has one body")
        in_path = {parameter.name for parameter in self.parameters if parameter.where == "path"}
        missing = [name for name in convertors if name not in in_path]
        if missing and not self.needs_request:
            raise SignatureError(
                f"{name}: the route's path has {', '.join(map(repr, missing))}, "
                f"but the method's parameters are {', '.join(map(repr, parameters)) or 'none'}; "
                "add the missing ones, or 'request: Request'"
            )
        self.media_types: list[str] = []
        """The media types of the `Response` classes that the method returns."""
        self.returned: Any = self._returned(hints.get("return", Any))
        self.result: TypeAdapter[Any] | None = None
        if self.returned not in (Any, NoneType, Response):
            self.result = self._make.adapter("return", self.returned, "serialization")

    @property
    def has_form(self) -> bool:
        """Whether the method has parameters in a form."""
        return any(parameter.where == "form" for parameter in self.parameters)

    def _declared(self, method: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
        """The parameters of `method`, and their annotations."""
        try:
            parameters = parameters_of(method)
            hints = get_type_hints(annotated(method), include_extras=True)
        except (AttributeError, NameError, SyntaxError, TypeError, ValueError) as error:
            invalid = ", ".join(repr(name) for name in unresolved(method)) or "a parameter"
            raise SignatureError(f"{self.name}: cannot evaluate the annotation of {invalid}: {error}") from error
        if "request" in parameters and hasattr(method, "__wrapped__"):
            # `functools.wraps` replaces the annotations of the decorator's own function.
            hints.setdefault("request", Request)
        return parameters, hints

    def _add(self, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> None:
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise SignatureError(
                f"{self.name}: parameter {name!r} cannot be passed by name; "
                "declare each parameter by its name, without '*args', '**kwargs' and '/'"
            )
        if name not in hints:
            raise SignatureError(
                f"{self.name}: parameter {name!r} has no annotation; add a type, such as '{name}: str'"
            )
        if isinstance(parameter.default, FieldInfo):
            field_type = type(parameter.default).__name__
            raise SignatureError(
                f"{self.name}: the default of {name!r} is {field_type}(…); "
                f"write '{name}: Annotated[…, Field(…)] = default'"
            )
        annotation = unwrap_alias(hints[name])
        if has_type_variable(annotation):
            raise SignatureError(
                f"{self.name}: {name!r} is annotated with a type variable: {annotation}; use a concrete type"
            )
        for is_source, add in self._sources:
            if is_source(name, annotation):
                add(name, annotation, parameter.default)
                return

    # The conditions: whether an argument comes from a source.

    def _is_request(self, name: str, annotation: Any) -> bool:
        return name == "request" or annotation is Request

    def _is_provided(self, name: str, annotation: Any) -> bool:
        return isinstance(annotation, Hashable) and annotation in self._provided

    def _is_marked(self, name: str, annotation: Any) -> bool:
        return self._make.source(name, annotation) is not None

    def _is_body(self, name: str, annotation: Any) -> bool:
        return name == "body"

    def _is_file(self, name: str, annotation: Any) -> bool:
        return holds_file(annotation)

    def _is_in_path(self, name: str, annotation: Any) -> bool:
        return self._make.request_name(name, annotation) in self._convertors

    def _is_in_query(self, name: str, annotation: Any) -> bool:
        return True

    # The additions: how an argument from a source is added.

    def _add_request(self, name: str, annotation: Any, default: Any) -> None:
        if name != "request" or annotation is not Request:
            raise SignatureError(
                f"{self.name}: {name!r} is annotated with {annotation!r}; "
                "write 'request: Request' (from starlette.requests) for the request"
            )
        self.needs_request = True

    def _add_provided(self, name: str, annotation: Any, default: Any) -> None:
        if default is not NO_DEFAULT:
            raise SignatureError(f"{self.name}: {name!r} is provided by the application; remove its default")
        self.provided[name] = annotation

    def _add_marked(self, name: str, annotation: Any, default: Any) -> None:
        source = self._make.source(name, annotation) or Query()
        model = model_of(annotation)
        if model is None:
            self._keep(self._make.parameter(source, name, annotation, default))
        else:
            self._keep(self._make.group(source, name, annotation, model, default))

    def _add_body(self, name: str, annotation: Any, default: Any) -> None:
        if self._make.request_name(name, annotation) != name:
            raise SignatureError(f"{self.name}: 'body' has an alias; remove it, because a body has no name")
        if (get_origin(annotation) or annotation) in STREAMS:
            if get_args(annotation)[:1] != (bytes,) or default is not NO_DEFAULT:
                raise SignatureError(
                    f"{self.name}: 'body' is annotated with {annotation!r}; "
                    "write 'body: AsyncIterator[bytes]' without a default to stream the body"
                )
            self.streams_body = True
            return
        self.body_is_raw = _bare(annotation) is bytes
        self.body = self._make.adapter(name, annotation)
        if has_generator(self.body.core_schema):
            raise SignatureError(f"{self.name}: 'body' has an Iterable, whose items are not validated; use list[…]")
        self.body_is_optional = default is not NO_DEFAULT

    def _add_file(self, name: str, annotation: Any, default: Any) -> None:
        self._keep(self._make.parameter(Form(), name, annotation, default))

    def _add_path(self, name: str, annotation: Any, default: Any) -> None:
        if default is not NO_DEFAULT:
            raise SignatureError(f"{self.name}: path parameter {name!r} is always present; remove its default")
        convertor = self._convertors[self._make.request_name(name, annotation)]
        parameter = self._make.parameter(Path(), name, annotation, default)
        if parameter.is_list:
            raise SignatureError(
                f"{self.name}: path parameter {name!r} is one value, but its type is {annotation!r}; "
                "use a type such as str, int or UUID"
            )
        is_text = isinstance(convertor, StringConvertor | PathConvertor)
        if not is_text and parameter.adapter.core_schema["type"] == "str":  # the convertor returns another type
            parameter.annotation = _with_text(parameter.annotation, convertor)
        self._keep(parameter)

    def _add_query(self, name: str, annotation: Any, default: Any) -> None:
        try:
            parameter = self._make.parameter(Query(), name, annotation, default)
        except SignatureError as error:
            bare = _bare(annotation)
            if default is not NO_DEFAULT or not isinstance(bare, type) or bare.__module__ == "builtins":
                raise
            raise UnprovidedError(f"{error}. If it is a dependency, call app.provide({bare.__name__}, …)") from error
        self._keep(parameter)

    def _keep(self, parameter: Parameter) -> None:
        for other in self.parameters:
            same = set(other.names) & set(parameter.names) if other.where == parameter.where else set()
            if same:
                raise SignatureError(
                    f"{self.name}: {other.argument!r} and {parameter.argument!r} are both {min(same)!r} "
                    "in the request; rename one of them"
                )
        self.parameters.append(parameter)

    def _returned(self, annotation: Any) -> Any:
        """The type of the result, without `Reply[…]`; `Response` if the method returns only responses."""
        annotation = unwrap_alias(annotation)
        members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        if has_type_variable(annotation):
            raise SignatureError(
                f"{self.name}: the result is annotated with a type variable: {annotation}; use a concrete type"
            )
        results = []
        for member in members:
            if _is_class(get_origin(member) or member, Reply):
                (inner,) = get_args(member) or (Any,)
                if _is_class(inner, Response):
                    raise SignatureError(
                        f"{self.name}: Reply cannot hold a {inner.__name__}; "
                        f"return the response itself, and pass the headers to it"
                    )
                results.append(inner)
            elif isinstance(member, type) and issubclass(member, Response):
                if isinstance(member.media_type, str):
                    self.media_types.append(member.media_type)
            else:
                results.append(NoneType if member in NEVER else member)
        if not results:
            return Response
        return Any if Any in results else Union[tuple(results)]  # noqa: UP007 - their number varies


def _bare(annotation: Any) -> Any:
    """The type without its metadata, and without None."""
    annotation = unwrap_alias(annotation)
    if get_origin(annotation) is Annotated:
        return _bare(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        members = [member for member in get_args(annotation) if member is not NoneType]
        return _bare(members[0]) if len(members) == 1 else annotation
    return annotation


def _with_text(annotation: Any, convertor: Convertor[Any]) -> Any:
    return Annotated[annotation, BeforeValidator(convertor.to_string)]


def _is_class(annotation: Any, base: type) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, base)
