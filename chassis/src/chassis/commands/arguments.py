"""The parameters of a command's function: which ones are arguments, and which ones are injected."""

import inspect
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Annotated, Any, Never, NoReturn, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter, ValidationError
from starlette.requests import Request

from ..api.annotations import AnnotationError, from_text, is_list, unwrap_alias, without_alias
from ..api.callables import annotated, innermost, parameters_of
from ..api.dependencies import Dependencies, Providers
from ..api.errors import SignatureError
from ..api.parameter_maker import NO_DEFAULT, ParameterMaker
from ..command import Command
from ..configuration.schema import holds_secret
from .errors import UsageError

RESULTS = (None, NoneType, int, Any, Never, NoReturn)


@dataclass(frozen=True, slots=True)
class Argument:
    """A parameter whose value is on the command line."""

    name: str
    """The name of the parameter."""
    spelling: str
    """Its name on the command line: `since`, or `--batch-size` of an option."""
    adapter: TypeAdapter[Any]
    default: Any
    is_list: bool
    is_flag: bool
    is_secret: bool
    description: str
    choices: tuple[str, ...]

    @property
    def is_option(self) -> bool:
        """Whether it is given by name."""
        return self.spelling.startswith("--")

    @property
    def is_required(self) -> bool:
        """Whether the command needs it."""
        return self.default is NO_DEFAULT


class Arguments:
    """The parameters of a command.

    Without a default, a parameter is a positional argument. With one, or behind `*`, it is an option. Types that the
    app provides are injected, and so are the objects in `constants`, by their types.

    Raises `SignatureError` for a parameter that is neither.
    """

    def __init__(self, command: Command, providers: Providers, constants: Mapping[Hashable, object]) -> None:
        self.command = command
        self.values: list[Argument] = []
        self.constants: dict[str, object] = {}
        """The injected objects that are there already, by the names of their parameters."""
        self._name = f"the command {command.name}"
        self._make = ParameterMaker(self._name)
        provided: dict[str, Hashable] = {}
        parameters, hints = self._declared(command.function)
        for parameter in parameters.values():
            name, annotation = parameter.name, hints.get(parameter.name)
            self._check(parameter, annotation)
            if isinstance(annotation, Hashable) and annotation in constants:
                self.constants[name] = constants[annotation]
            elif isinstance(annotation, Hashable) and annotation in providers:
                provided[name] = annotation
            else:
                self.values.append(self._argument(parameter, annotation))
        if inspect.isasyncgenfunction(innermost(command.function)):
            raise SignatureError(f"{self._name} is an async generator; remove its yield")
        self._check_result(hints.get("return"))
        spellings = [argument.spelling.lstrip("-") for argument in self.values]
        for spelling in spellings:
            if spellings.count(spelling) > 1 or spelling == "help":
                raise SignatureError(f"{self._name}: the argument {spelling!r} is taken already; rename it")
        self.dependencies: Dependencies = Dependencies(providers, provided)

    @property
    def documentation(self) -> str:
        """The docstring of the function; empty without one."""
        return inspect.getdoc(innermost(self.command.function)) or ""

    def bind(self, texts: Mapping[str, Any]) -> dict[str, Any]:
        """The values of the arguments, by the names of the parameters. `texts` has those that were given.

        Raises `UsageError` for the first one that is wrong.
        """
        values: dict[str, Any] = {}
        for argument in self.values:
            if argument.name not in texts:
                continue
            try:
                values[argument.name] = argument.adapter.validate_python(texts[argument.name])
            except ValidationError as error:
                detail = error.errors(include_url=False, include_context=False)[0]
                shown = "[secret]" if argument.is_secret else repr(detail["input"])
                raise UsageError(f"{argument.spelling}={shown}: {detail['msg']}") from None
        return values

    def _declared(self, function: Callable[..., Any]) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
        try:
            return parameters_of(function), get_type_hints(annotated(function), include_extras=True)
        except (AttributeError, NameError, SyntaxError, TypeError, ValueError) as error:
            raise SignatureError(f"{self._name}: its annotations cannot be evaluated: {error}") from error

    def _check(self, parameter: inspect.Parameter, annotation: Any) -> None:
        name = parameter.name
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise SignatureError(
                f"{self._name}: parameter {name!r} cannot be passed by name; declare each parameter by its name, and "
                f"several values as a list, such as 'paths: list[Path]'"
            )
        if annotation is None:
            raise SignatureError(
                f"{self._name}: parameter {name!r} has no annotation; add a type, such as '{name}: str'"
            )
        if annotation is Request:
            raise SignatureError(f"{self._name}: parameter {name!r} is a request, and a command has none")

    def _check_result(self, annotation: Any) -> None:
        annotation = unwrap_alias(annotation)
        members = get_args(annotation) if get_origin(annotation) is not None else (annotation,)
        if get_origin(annotation) in (list, dict, tuple) or not all(member in RESULTS for member in members):
            raise SignatureError(f"{self._name} returns {annotation!r}; return None, or an exit status (int)")

    def _argument(self, parameter: inspect.Parameter, annotation: Any) -> Argument:
        name, default = parameter.name, parameter.default
        bare = _bare(annotation)
        spelling = self._make.request_name(name, annotation)
        try:
            adapter = self._make.adapter(name, without_alias(from_text(annotation)))
            takes_several = is_list(adapter.core_schema)
        except (AnnotationError, SignatureError) as error:
            hint = f". If it is a dependency, call app.provide({bare.__name__}, …)" if isinstance(bare, type) else ""
            raise SignatureError(
                f"{self._name}: parameter {name!r} cannot be read from text: {annotation!r}; "
                f"use a type such as str, int, Path or datetime{hint}"
            ) from error
        is_flag = bare is bool and default is not NO_DEFAULT
        is_option = default is not NO_DEFAULT or parameter.kind is parameter.KEYWORD_ONLY
        spelling = spelling.replace("_", "-")
        schema = adapter.json_schema()
        return Argument(
            name=name,
            spelling=f"--{spelling}" if is_option else spelling,
            adapter=adapter,
            default=default,
            is_list=takes_several,
            is_flag=is_flag,
            is_secret=holds_secret(annotation),
            description=" ".join(str(schema.get("description", "")).split()),
            choices=_choices(schema),
        )


def _bare(annotation: Any) -> Any:
    annotation = unwrap_alias(annotation)
    return unwrap_alias(get_args(annotation)[0]) if get_origin(annotation) is Annotated else annotation


def _choices(schema: Mapping[str, Any]) -> tuple[str, ...]:
    """The allowed values of a literal or an enumeration, which may be optional; empty for all other types."""
    members: Sequence[Mapping[str, Any]] = [schema, *schema.get("anyOf", ())]
    for member in members:
        if "enum" in member:
            return tuple(map(str, member["enum"]))
    return ()
