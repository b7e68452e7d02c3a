"""The signature of a handler's method, compiled once: where each argument comes from."""

import inspect
import sys
from collections.abc import Callable, Mapping
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Never, NoReturn, Union, get_args, get_origin, get_type_hints

from pydantic import (
    BeforeValidator,
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeAdapter,
)
from pydantic.fields import FieldInfo
from starlette.convertors import Convertor, PathConvertor, StringConvertor
from starlette.requests import Request
from starlette.responses import Response

from .annotations import (
    AnnotationError,
    from_text,
    has_generator,
    has_type_variable,
    is_list,
    request_name,
    unwrap_alias,
    without_alias,
)
from .handler import Reply
from .parameters import Parameter

NO_DEFAULT = inspect.Parameter.empty
NEVER = (Never, NoReturn)


Condition = Callable[[str, Any], bool]
Addition = Callable[[str, Any, Any], None]


class SignatureError(TypeError):
    """A method of a handler cannot be bound as it is written. Raised when its route is added."""


class Signature:
    """What `method` takes from a request, and what it returns.

    `convertors` has the parameters of the route's path. Raises `SignatureError` for what cannot work, so that
    it is known at the start.
    """

    def __init__(self, name: str, method: Callable[..., Any], convertors: Mapping[str, Convertor[Any]]) -> None:
        self.name = name
        self.path: dict[str, Parameter] = {}
        self.query: dict[str, Parameter] = {}
        self.body: TypeAdapter[Any] | None = None
        self.body_is_optional: bool = False
        self.wants_request: bool = False
        self.function: Callable[..., Any] = innermost(method)
        self._convertors = convertors
        # Where an argument comes from: the first row whose condition holds.
        self._sources: tuple[tuple[Condition, Addition], ...] = (
            (self._is_request, self._add_request),
            (self._is_body, self._add_body),
            (self._is_in_path, self._add_path),
            (self._is_in_query, self._add_query),
        )
        parameters, hints = self._declared(method)
        for parameter in parameters.values():
            self._add(parameter, hints)
        missing = [name for name in convertors if name not in self.path]
        if missing and not self.wants_request:
            raise SignatureError(
                f"{name}: the route's path has {', '.join(map(repr, missing))}, "
                f"but the method's parameters are {', '.join(map(repr, parameters)) or 'none'}"
            )
        self.returned: Any = self._returned(hints.get("return", Any))
        self.result: TypeAdapter[Any] | None = None
        if self.returned not in (Any, NoneType, Response):
            self.result = self._adapter("return", self.returned, "serialization")

    def _declared(self, method: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
        """The parameters by which `method` can be called, and the annotations."""
        try:
            parameters = parameters_of(method)
            hints = get_type_hints(annotated(method), include_extras=True)
        except (AttributeError, NameError, SyntaxError, TypeError, ValueError) as error:
            wrong = ", ".join(repr(name) for name in _unresolved(method)) or "a parameter"
            raise SignatureError(f"{self.name}: unknown annotation of {wrong}: {error}") from error
        if "request" in parameters and hasattr(method, "__wrapped__"):
            # `functools.wraps` replaces the annotations of the function that it is put on.
            hints.setdefault("request", Request)
        return parameters, hints

    def _add(self, parameter: inspect.Parameter, hints: Mapping[str, Any]) -> None:
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise SignatureError(
                f"{self.name}: parameter {name!r} cannot be passed by name; write each parameter by itself, without '/'"
            )
        if name not in hints:
            raise SignatureError(f"{self.name}: parameter {name!r} has no annotation")
        if isinstance(parameter.default, FieldInfo):
            kind = type(parameter.default).__name__
            raise SignatureError(
                f"{self.name}: the default of {name!r} is {kind}(…); write '{name}: Annotated[…, Field(…)] = default'"
            )
        annotation = unwrap_alias(hints[name])
        if has_type_variable(annotation):
            raise SignatureError(f"{self.name}: {name!r} is annotated with a type variable, {annotation}; name a type")
        for is_source, add in self._sources:
            if is_source(name, annotation):
                add(name, annotation, parameter.default)
                return

    # Which argument: one function for each source.

    def _is_request(self, name: str, annotation: Any) -> bool:
        return name == "request" or annotation is Request

    def _is_body(self, name: str, annotation: Any) -> bool:
        return name == "body"

    def _is_in_path(self, name: str, annotation: Any) -> bool:
        return self._request_name(name, annotation) in self._convertors

    def _is_in_query(self, name: str, annotation: Any) -> bool:
        return True

    # What it becomes.

    def _add_request(self, name: str, annotation: Any, default: Any) -> None:
        if name != "request" or annotation is not Request:
            raise SignatureError(f"{self.name}: write 'request: Request' (starlette.requests) for the request")
        self.wants_request = True

    def _add_body(self, name: str, annotation: Any, default: Any) -> None:
        if self._request_name(name, annotation) != name:
            raise SignatureError(f"{self.name}: 'body' has an alias, but the request's JSON has no name")
        self.body = self._adapter(name, annotation)
        if has_generator(self.body.core_schema):
            raise SignatureError(f"{self.name}: 'body' has an Iterable, whose items are not validated; write list")
        self.body_is_optional = default is not NO_DEFAULT

    def _add_path(self, name: str, annotation: Any, default: Any) -> None:
        if default is not NO_DEFAULT:
            raise SignatureError(f"{self.name}: path parameter {name!r} is always present, so it cannot have a default")
        convertor = self._convertors[self._request_name(name, annotation)]
        parameter = self._parameter("path", name, annotation, default)
        if parameter.is_list:
            raise SignatureError(f"{self.name}: path parameter {name!r} is one value, not {annotation!r}")
        is_text = isinstance(convertor, StringConvertor | PathConvertor)
        if not is_text and parameter.adapter.core_schema["type"] == "str":  # the convertor has made it something else
            parameter.annotation = _with_text(parameter.annotation, convertor)
        self._keep(parameter, self.path)

    def _add_query(self, name: str, annotation: Any, default: Any) -> None:
        self._keep(self._parameter("query", name, annotation, default), self.query)

    def _keep(self, parameter: Parameter, others: dict[str, Parameter]) -> None:
        other = others.get(parameter.name)
        if other is not None:
            raise SignatureError(
                f"{self.name}: {other.argument!r} and {parameter.argument!r} are both {parameter.name!r} in the request"
            )
        others[parameter.name] = parameter

    def _request_name(self, name: str, annotation: Any) -> str:
        try:
            return request_name(annotation, name)
        except AnnotationError as error:
            raise SignatureError(f"{self.name}: parameter {name!r} {error}") from error

    def _parameter(self, where: str, name: str, annotation: Any, default: Any) -> Parameter:
        in_request = self._request_name(name, annotation)
        converted = from_text(annotation)
        adapter = self._adapter(name, without_alias(converted) if in_request != name else converted, written=annotation)
        try:
            repeated = is_list(adapter.core_schema)
        except AnnotationError as error:
            raise SignatureError(
                f"{self.name}: {where} parameter {name!r} cannot hold {annotation!r}: it {error}"
            ) from error
        return Parameter(in_request, name, converted, adapter, default, is_list=repeated)

    def _adapter(
        self, name: str, annotation: Any, mode: Any = "validation", *, written: Any = None
    ) -> TypeAdapter[Any]:
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(annotation)
            adapter.json_schema(mode=mode)
        except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation, PydanticUserError) as error:
            shown = annotation if written is None else written
            raise SignatureError(f"{self.name}: unknown annotation of {name!r}: {shown!r}") from error
        return adapter

    def _returned(self, annotation: Any) -> Any:
        """The type of the result: without `Reply[…]`, and `Response` where nothing but responses are returned."""
        annotation = unwrap_alias(annotation)
        members = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
        if has_type_variable(annotation):
            raise SignatureError(
                f"{self.name}: the result is annotated with a type variable, {annotation}; name a type"
            )
        results = []
        for member in members:
            if _is_class(get_origin(member) or member, Reply):
                (inner,) = get_args(member) or (Any,)
                if _is_class(inner, Response):
                    raise SignatureError(
                        f"{self.name}: Reply holds a result, not a {inner.__name__}; "
                        f"return the response, and give the headers to it"
                    )
                results.append(inner)
            elif not _is_class(member, Response):
                results.append(NoneType if member in NEVER else member)
        if not results:
            return Response
        return Any if Any in results else Union[tuple(results)]  # noqa: UP007 - their number varies


def parameters_of(method: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters that a call of `method` by keywords may have.

    A decorator's function that takes `**kwargs` hands on those of the function that it wraps (`functools.wraps`).
    Without, it takes its own alone. Arguments that a `functools.partial` has bound are left out.
    """
    own = dict(inspect.signature(method, follow_wrapped=False).parameters)
    inner = dict(inspect.signature(method).parameters)
    kinds = {parameter.kind: name for name, parameter in own.items()}
    if hasattr(method, "__wrapped__") and (inspect.Parameter.VAR_KEYWORD in kinds or not inner):
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        explicit = {name: parameter for name, parameter in own.items() if parameter.kind not in variable}
        own = explicit | {name: parameter for name, parameter in inner.items() if name not in explicit}
    while isinstance(method, partial):
        own = {name: parameter for name, parameter in own.items() if name not in method.keywords}
        method = method.func
    return own


def annotated(method: Callable[..., Any]) -> Callable[..., Any]:
    """The function whose annotations are those of `method`."""
    while isinstance(method, partial):
        method = method.func
    if not inspect.isroutine(method) and not hasattr(method, "__wrapped__"):
        called: Callable[..., Any] = type(method).__call__  # an object that can be called
        return called
    return method


def innermost(method: Callable[..., Any]) -> Callable[..., Any]:
    """The function that the owner has written, inside of decorators and of `functools.partial`."""
    while isinstance(method, partial):
        method = method.func
    function: Callable[..., Any] = inspect.unwrap(method)
    return function


def _unresolved(method: Callable[..., Any]) -> list[str]:
    """The parameters whose annotations name what does not exist."""
    function = innermost(method)
    if sys.version_info >= (3, 14):
        from annotationlib import Format, get_annotations

        written = get_annotations(function, format=Format.STRING)
    else:
        written = getattr(function, "__annotations__", {})
    names = dict(getattr(function, "__globals__", {}))
    wrong = []
    for name, annotation in written.items():
        if isinstance(annotation, str):
            try:
                eval(annotation, names)  # noqa: S307 - as `get_type_hints` does with the owner's own annotations
            except Exception:  # noqa: BLE001 - whatever it is, it is the annotation that cannot be read
                wrong.append(name)
    return wrong


def _with_text(annotation: Any, convertor: Convertor[Any]) -> Any:
    return Annotated[annotation, BeforeValidator(convertor.to_string)]


def _is_class(annotation: Any, base: type) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, base)
