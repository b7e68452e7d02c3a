"""The signatures of callables: functions inside decorators and `functools.partial`, and callable objects."""

import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any


def parameters_of(method: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The parameters with which `method` may be called by keyword.

    A decorator's function with `**kwargs` also has the parameters of the function that it wraps (`functools.wraps`);
    without `**kwargs` it has only its own. Arguments that a `functools.partial` has bound are left out.
    """
    own = dict(inspect.signature(method, follow_wrapped=False).parameters)
    inner = dict(inspect.signature(method).parameters)
    own_kinds = {parameter.kind for parameter in own.values()}
    if hasattr(method, "__wrapped__") and (inspect.Parameter.VAR_KEYWORD in own_kinds or not inner):
        variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        explicit = {name: parameter for name, parameter in own.items() if parameter.kind not in variable}
        own = explicit | {name: parameter for name, parameter in inner.items() if name not in explicit}
    while isinstance(method, partial):
        own = {name: parameter for name, parameter in own.items() if name not in method.keywords}
        method = method.func
    return own


def annotated(method: Callable[..., Any]) -> Callable[..., Any]:
    """The function that has the annotations of `method`."""
    while isinstance(method, partial):
        method = method.func
    if not inspect.isroutine(method) and not hasattr(method, "__wrapped__"):
        call: Callable[..., Any] = type(method).__call__  # a callable object
        return call
    return method


def innermost(method: Callable[..., Any]) -> Callable[..., Any]:
    """The function that the owner has written, inside decorators and `functools.partial`."""
    while isinstance(method, partial):
        method = method.func
    function: Callable[..., Any] = inspect.unwrap(method)
    return function


def unresolved(method: Callable[..., Any]) -> list[str]:
    """The parameters whose annotations cannot be evaluated, such as unknown names."""
    function = innermost(method)
    if sys.version_info >= (3, 14):
        from annotationlib import Format, get_annotations

        written = get_annotations(function, format=Format.STRING)
    else:
        written = getattr(function, "__annotations__", {})
    names = dict(getattr(function, "__globals__", {}))
    invalid = []
    for name, annotation in written.items():
        if isinstance(annotation, str):
            try:
                eval(annotation, names)  # noqa: S307 - as `get_type_hints` does with the owner's own annotations
            except Exception:  # noqa: BLE001 - an annotation may raise any exception
                invalid.append(name)
    return invalid
