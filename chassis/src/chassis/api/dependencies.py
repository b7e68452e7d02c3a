"""Request-scoped dependencies: what an application provides to the methods of handlers, by type."""

import inspect
from collections.abc import Callable, Hashable, Iterator, Mapping
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, get_type_hints

from starlette.requests import Request


class ProviderError(TypeError):
    """A provider cannot work as it is registered. Raised at the start."""


class Provider:
    """Makes the value of one type, for one request."""

    def __init__(self, key: Hashable, make: Any) -> None:
        self.key: Hashable = key
        self.name: str = name_of(key)
        self.is_constant: bool = not callable(make) or _is_instance(make, key)
        self.make: Any = make
        if inspect.isasyncgenfunction(make):
            self.make = asynccontextmanager(make)
        elif inspect.isgeneratorfunction(make):
            self.make = contextmanager(make)
        self.needs: dict[str, Hashable] = {} if self.is_constant else self._needs(make)
        """The arguments of `make` and their types; `Request` is the request itself."""

    def _needs(self, make: Callable[..., Any]) -> dict[str, Hashable]:
        shown = getattr(make, "__qualname__", repr(make))
        try:
            parameters = inspect.signature(make).parameters.values()
            hints = get_type_hints(_annotated(make), include_extras=True)
        except (NameError, TypeError, ValueError) as error:
            raise ProviderError(f"the provider of {self.name}, {shown}, cannot be read: {error}") from error
        needs: dict[str, Hashable] = {}
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if parameter.default is not parameter.empty:
                continue
            if parameter.kind is parameter.POSITIONAL_ONLY or parameter.name not in hints:
                raise ProviderError(
                    f"the provider of {self.name}, {shown}: parameter {parameter.name!r} needs a name and an annotation"
                )
            needs[parameter.name] = hints[parameter.name]
        return needs

    async def provide(self, arguments: Mapping[str, Any], stack: AsyncExitStack) -> Any:
        """The value; what has to be left after the request is entered into `stack`."""
        if self.is_constant:
            return self.make
        made = self.make(**arguments)
        if inspect.isawaitable(made) and not isinstance(made, AbstractAsyncContextManager):
            made = await made
        if isinstance(made, AbstractAsyncContextManager):
            return await stack.enter_async_context(made)
        if isinstance(made, AbstractContextManager):
            return stack.enter_context(made)
        return made


class Providers(Mapping[Hashable, Provider]):
    """The providers of an application, by type."""

    def __init__(self) -> None:
        self._providers: dict[Hashable, Provider] = {}

    def __getitem__(self, key: Hashable) -> Provider:
        return self._providers[key]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._providers)

    def __len__(self) -> int:
        return len(self._providers)

    def add(self, key: Hashable, make: Any) -> None:
        """Register a provider; raises `ProviderError` for a second one of a type."""
        if key is Request or key in self._providers:
            raise ProviderError(f"{name_of(key)} is provided already; in tests, replace it with app.override(…)")
        self._providers[key] = Provider(key, make)

    def override(self, key: Hashable, make: Any) -> "Override":
        """Replace the provider of a type from now on; raises `ProviderError` where there is none."""
        if key not in self._providers:
            raise ProviderError(f"nobody provides {name_of(key)}, so there is nothing to override")
        before = self._providers[key]
        self._providers[key] = Provider(key, make)
        try:
            self.check()
        except ProviderError:
            self._providers[key] = before
            raise
        return Override(self._providers, before)

    def check(self) -> None:
        """Raise `ProviderError` for what a provider needs and nobody provides, and for circles."""
        for key in self._providers:
            self._check(key, ())

    def _check(self, key: Hashable, above: tuple[Hashable, ...]) -> None:
        if key in above:
            circle = " needs ".join(map(name_of, [*above[above.index(key) :], key]))
            raise ProviderError(f"providers need each other in a circle: {circle}")
        for argument, needed in self._providers[key].needs.items():
            if needed is Request:
                continue
            if needed not in self._providers:
                raise ProviderError(
                    f"the provider of {name_of(key)} needs {argument!r}, but nobody provides {name_of(needed)}; "
                    f"call app.provide({name_of(needed)}, …)"
                )
            self._check(needed, (*above, key))


class Override:
    """The replacement of a provider; used in a `with` statement, it ends with its block."""

    def __init__(self, providers: dict[Hashable, Provider], before: Provider) -> None:
        self._providers = providers
        self._before = before

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._providers[self._before.key] = self._before


class Dependencies:
    """What one method is given: `keys` are the types of its arguments."""

    def __init__(self, providers: Providers, keys: Mapping[str, Hashable]) -> None:
        self._providers = providers
        self._keys = keys

    async def fill(self, request: Request, arguments: dict[str, Any], stack: AsyncExitStack) -> Mapping[Hashable, Any]:
        """Add the arguments. Each type is provided once, also when other providers need it; returns all by type."""
        values: dict[Hashable, Any] = {Request: request}
        for argument, key in self._keys.items():
            arguments[argument] = await self._value(key, values, stack)
        return values

    async def _value(self, key: Hashable, values: dict[Hashable, Any], stack: AsyncExitStack) -> Any:
        if key not in values:
            provider = self._providers[key]
            arguments = {
                argument: await self._value(needed, values, stack) for argument, needed in provider.needs.items()
            }
            values[key] = await provider.provide(arguments, stack)
        return values[key]


def _annotated(make: Callable[..., Any]) -> Any:
    """The function whose annotations are those of a call of `make`."""
    if isinstance(make, type):
        return vars(make).get("__init__") or make.__init__  # type: ignore[misc]
    return make if inspect.isroutine(make) else type(make).__call__


def _is_instance(value: Any, key: Hashable) -> bool:
    try:
        return isinstance(key, type) and isinstance(value, key)
    except TypeError:  # a protocol, whose instances cannot be told
        return False


def name_of(key: Hashable) -> str:
    """The name of a type for messages."""
    return key.__name__ if isinstance(key, type) else str(key)
