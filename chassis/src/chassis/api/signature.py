"""The signature of a handler's method, compiled once: where each argument comes from."""

import inspect
import sys
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Collection, Hashable, Mapping
from functools import partial
from types import NoneType, UnionType
from typing import Annotated, Any, Never, NoReturn, Union, get_args, get_origin, get_type_hints

from pydantic import (
    BaseModel,
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
    from_texts,
    has_generator,
    has_type_variable,
    holds_file,
    is_list,
    model_of,
    request_name,
    source_of,
    unwrap_alias,
    without_alias,
)
from .handler import Reply
from .parameters import Member, Parameter
from .sources import Form, Path, Query, Source

NO_DEFAULT = inspect.Parameter.empty
NEVER = (Never, NoReturn)
STREAMS = (AsyncIterator, AsyncIterable, AsyncGenerator)

Condition = Callable[[str, Any], bool]
Addition = Callable[[str, Any, Any], None]


class SignatureError(TypeError):
    """A method of a handler cannot be bound as it is written. Raised when its route is added."""


class UnprovidedError(SignatureError):
    """A parameter is of a type that comes from no request, but an application may provide it."""


class Signature:
    """What `method` takes from a request, and what it returns.

    `convertors` has the parameters of the route's path, `provided` the types that the application provides. Raises
    `SignatureError` for what cannot work, so that it is known at the start.
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
        """Of JSON, or of the bytes if `body_is_raw`."""
        self.body_is_raw: bool = False
        self.streams_body: bool = False
        """Whether `body` is an asynchronous iterator over the pieces of the body."""
        self.body_is_optional: bool = False
        self.provided: dict[str, Hashable] = {}
        """The types of the arguments that the application provides."""
        self.wants_request: bool = False
        self.function: Callable[..., Any] = innermost(method)
        self._convertors = convertors
        self._provided = provided
        # Where an argument comes from: the first row whose condition holds.
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
            raise SignatureError(f"{name}: a request has one body; 'body' and the fields of a form are two")
        in_path = {parameter.name for parameter in self.parameters if parameter.where == "path"}
        missing = [name for name in convertors if name not in in_path]
        if missing and not self.wants_request:
            raise SignatureError(
                f"{name}: the route's path has {', '.join(map(repr, missing))}, "
                f"but the method's parameters are {', '.join(map(repr, parameters)) or 'none'}"
            )
        self.returned: Any = self._returned(hints.get("return", Any))
        self.result: TypeAdapter[Any] | None = None
        if self.returned not in (Any, NoneType, Response):
            self.result = self._adapter("return", self.returned, "serialization")

    @property
    def has_form(self) -> bool:
        """Whether it takes fields or files of a form."""
        return any(parameter.where == "form" for parameter in self.parameters)

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

    def _is_provided(self, name: str, annotation: Any) -> bool:
        return isinstance(annotation, Hashable) and annotation in self._provided

    def _is_marked(self, name: str, annotation: Any) -> bool:
        return self._source(name, annotation) is not None

    def _is_body(self, name: str, annotation: Any) -> bool:
        return name == "body"

    def _is_file(self, name: str, annotation: Any) -> bool:
        return holds_file(annotation)

    def _is_in_path(self, name: str, annotation: Any) -> bool:
        return self._request_name(name, annotation) in self._convertors

    def _is_in_query(self, name: str, annotation: Any) -> bool:
        return True

    # What it becomes.

    def _add_request(self, name: str, annotation: Any, default: Any) -> None:
        if name != "request" or annotation is not Request:
            raise SignatureError(f"{self.name}: write 'request: Request' (starlette.requests) for the request")
        self.wants_request = True

    def _add_provided(self, name: str, annotation: Any, default: Any) -> None:
        if default is not NO_DEFAULT:
            raise SignatureError(f"{self.name}: {name!r} is provided by the application, so it cannot have a default")
        self.provided[name] = annotation

    def _add_marked(self, name: str, annotation: Any, default: Any) -> None:
        source = self._source(name, annotation) or Query()
        model = model_of(annotation)
        if model is None:
            self._keep(self._parameter(source, name, annotation, default))
        else:
            self._keep(self._group(source, name, annotation, model, default))

    def _add_body(self, name: str, annotation: Any, default: Any) -> None:
        if self._request_name(name, annotation) != name:
            raise SignatureError(f"{self.name}: 'body' has an alias, but the request's body has no name")
        if (get_origin(annotation) or annotation) in STREAMS:
            if get_args(annotation)[:1] != (bytes,) or default is not NO_DEFAULT:
                raise SignatureError(f"{self.name}: write 'body: AsyncIterator[bytes]' for the body as it arrives")
            self.streams_body = True
            return
        self.body_is_raw = _bare(annotation) is bytes
        self.body = self._adapter(name, annotation)
        if has_generator(self.body.core_schema):
            raise SignatureError(f"{self.name}: 'body' has an Iterable, whose items are not validated; write list")
        self.body_is_optional = default is not NO_DEFAULT

    def _add_file(self, name: str, annotation: Any, default: Any) -> None:
        self._keep(self._parameter(Form(), name, annotation, default))

    def _add_path(self, name: str, annotation: Any, default: Any) -> None:
        if default is not NO_DEFAULT:
            raise SignatureError(f"{self.name}: path parameter {name!r} is always present, so it cannot have a default")
        convertor = self._convertors[self._request_name(name, annotation)]
        parameter = self._parameter(Path(), name, annotation, default)
        if parameter.is_list:
            raise SignatureError(f"{self.name}: path parameter {name!r} is one value, not {annotation!r}")
        is_text = isinstance(convertor, StringConvertor | PathConvertor)
        if not is_text and parameter.adapter.core_schema["type"] == "str":  # the convertor has made it something else
            parameter.annotation = _with_text(parameter.annotation, convertor)
        self._keep(parameter)

    def _add_query(self, name: str, annotation: Any, default: Any) -> None:
        try:
            parameter = self._parameter(Query(), name, annotation, default)
        except SignatureError as error:
            bare = _bare(annotation)
            if default is not NO_DEFAULT or not isinstance(bare, type) or bare.__module__ == "builtins":
                raise
            raise UnprovidedError(f"{error}. If the application provides it, call app.provide(…)") from error
        self._keep(parameter)

    def _keep(self, parameter: Parameter) -> None:
        for other in self.parameters:
            same = set(other.names) & set(parameter.names) if other.where == parameter.where else set()
            if same:
                raise SignatureError(
                    f"{self.name}: {other.argument!r} and {parameter.argument!r} are both {min(same)!r} in the request"
                )
        self.parameters.append(parameter)

    def _source(self, name: str, annotation: Any) -> Source | None:
        try:
            return source_of(annotation)
        except AnnotationError as error:
            raise SignatureError(f"{self.name}: parameter {name!r} {error}") from error

    def _request_name(self, name: str, annotation: Any, source: Source | None = None) -> str:
        try:
            found = request_name(annotation, name)
        except AnnotationError as error:
            raise SignatureError(f"{self.name}: parameter {name!r} {error}") from error
        if source is None:
            return found
        wanted = source.name or (found if found != name else source.default_name(name))
        return wanted.lower() if source.where == "header" else wanted

    def _parameter(self, source: Source, name: str, annotation: Any, default: Any) -> Parameter:
        where = source.where
        in_request = self._request_name(name, annotation, source)
        converted = without_alias(from_text(annotation))
        adapter = self._adapter(name, converted, written=annotation)
        if where != "form" and holds_file(annotation):
            raise SignatureError(f"{self.name}: {name!r} is a file, which comes in a form, not in the {where}")
        repeated = self._is_list(where, name, annotation, adapter)
        return Parameter(where, in_request, name, converted, adapter, default, is_list=repeated)

    def _is_list(self, where: str, name: str, annotation: Any, adapter: TypeAdapter[Any]) -> bool:
        try:
            return is_list(adapter.core_schema)
        except AnnotationError as error:
            raise SignatureError(
                f"{self.name}: {where} parameter {name!r} cannot hold {annotation!r}: it {error}"
            ) from error

    def _group(self, source: Source, name: str, annotation: Any, model: type[BaseModel], default: Any) -> Parameter:
        """A parameter whose model's fields are parameters in the request."""
        where = source.where
        if default is not NO_DEFAULT or source.name is not None:
            raise SignatureError(
                f"{self.name}: {name!r} is a group of {where} parameters, each with its own name and default; "
                f"write '{name}: Annotated[{model.__name__}, {type(source).__name__}()]'"
            )
        members = []
        for field_name, field in model.model_fields.items():
            alias = field.validation_alias or field.alias
            if alias is not None and not isinstance(alias, str):
                raise SignatureError(f"{self.name}: {name}.{field_name} has an alias that is not text")
            in_request = alias or source.default_name(field_name)
            in_request = in_request.lower() if where == "header" else in_request
            label = f"{name}.{field_name}"
            converted = from_text(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)
            adapter = self._adapter(label, converted, written=field.annotation)
            repeated = self._is_list(where, label, field.annotation, adapter)
            members.append(Member(in_request, alias or field_name, repeated, field.is_required()))
        converted = from_texts(model)
        return Parameter(
            where,
            name,
            name,
            converted,
            self._adapter(name, converted, written=annotation),
            default,
            is_list=False,
            members=tuple(members),
            takes_others=where != "header" and model.model_config.get("extra") in ("allow", "forbid"),
        )

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
