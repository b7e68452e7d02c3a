"""Dependency injection: values that an application provides to the methods of handlers, by type, for each request."""

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
    """A provider is missing, duplicate, circular or not usable. Raised at the start."""


class Provider:
    """Creates the value of one type for a request."""

    def __init__(self, key: Hashable, make: Any) -> None:
        """`key` is the provided type. `make` is a function that returns or yields the value, or the value itself."""
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
        provider_name = getattr(make, "__qualname__", repr(make))
        try:
            parameters = inspect.signature(make).parameters.values()
            hints = get_type_hints(_annotated(make), include_extras=True)
        except (NameError, TypeError, ValueError) as error:
            raise ProviderError(
                f"the provider of {self.name}, {provider_name}, has an invalid signature: {error}; "
                "annotate its parameters"
            ) from error
        needs: dict[str, Hashable] = {}
        for parameter in parameters:
            if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
                continue
            if parameter.default is not parameter.empty:
                continue
            if parameter.kind is parameter.POSITIONAL_ONLY or parameter.name not in hints:
                raise ProviderError(
                    f"the provider of {self.name}, {provider_name}: parameter {parameter.name!r} cannot be provided; "
                    "annotate it with a provided type, without '/'"
                )
            needs[parameter.name] = hints[parameter.name]
        return needs

    async def provide(self, arguments: Mapping[str, Any], stack: AsyncExitStack) -> Any:
        """The value. A context manager is entered on `stack`, which exits it after the request."""
        if self.is_constant:
            return self.make
        value = self.make(**arguments)
        if inspect.isawaitable(value) and not isinstance(value, AbstractAsyncContextManager):
            value = await value
        if isinstance(value, AbstractAsyncContextManager):
            return await stack.enter_async_context(value)
        if isinstance(value, AbstractContextManager):
            return stack.enter_context(value)
        return value


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
        """Register a provider. Raises `ProviderError` if the type has a provider already."""
        if key is Request or key in self._providers:
            raise ProviderError(
                f"{name_of(key)} is provided already; remove one app.provide({name_of(key)}, …), "
                "or use app.override(…) in a test"
            )
        self._providers[key] = Provider(key, make)

    def override(self, key: Hashable, make: Any) -> "Override":
        """Replace the provider of a type. Raises `ProviderError` if it has none."""
        if key not in self._providers:
            raise ProviderError(
                f"{name_of(key)} has no provider to override; call app.provide({name_of(key)}, …) in create_app"
            )
        previous = self._providers[key]
        self._providers[key] = Provider(key, make)
        try:
            self.check()
        except ProviderError:
            self._providers[key] = previous
            raise
        return Override(self._providers, previous)

    def check(self) -> None:
        """Raise `ProviderError` if a provider needs a type without a provider, and for circular dependencies."""
        for key in self._providers:
            self._check(key, ())

    def _check(self, key: Hashable, above: tuple[Hashable, ...]) -> None:
        if key in above:
            circle = " needs ".join(map(name_of, [*above[above.index(key) :], key]))
            raise ProviderError(f"circular dependency of providers: {circle}; remove one of these parameters")
        for argument, needed in self._providers[key].needs.items():
            if needed is Request:
                continue
            if needed not in self._providers:
                raise ProviderError(
                    f"the provider of {name_of(key)} needs {argument!r}, but {name_of(needed)} has no provider; "
                    f"call app.provide({name_of(needed)}, …)"
                )
            self._check(needed, (*above, key))


class Override:
    """The replacement of a provider. In a `with` statement, the block's end restores the provider."""

    def __init__(self, providers: dict[Hashable, Provider], previous: Provider) -> None:
        self._providers = providers
        self._previous = previous

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._providers[self._previous.key] = self._previous


class Dependencies:
    """The provided arguments of one method. `keys` are the types of the arguments."""

    def __init__(self, providers: Providers, keys: Mapping[str, Hashable]) -> None:
        self._providers = providers
        self._keys = keys

    @property
    def are_constant(self) -> bool:
        """Whether nothing is made for a request. Can change, because tests override providers."""
        for key in self._keys.values():  # noqa: SIM110 - for performance
            if not self._providers[key].is_constant:
                return False
        return True

    def add_constants(self, arguments: dict[str, Any]) -> None:
        """Add the provided values to `arguments`, if all of them `are_constant`."""
        for argument, key in self._keys.items():
            arguments[argument] = self._providers[key].make

    async def fill(self, arguments: dict[str, Any], values: dict[Hashable, Any], stack: AsyncExitStack) -> None:
        """Add the provided values to `arguments`, and to `values` by type, which has the request. Each is made once."""
        for argument, key in self._keys.items():
            provider = self._providers[key]
            if provider.is_constant:
                arguments[argument] = values[key] = provider.make
            else:
                arguments[argument] = await self._value(key, values, stack)

    async def _value(self, key: Hashable, values: dict[Hashable, Any], stack: AsyncExitStack) -> Any:
        if key not in values:
            provider = self._providers[key]
            arguments = {
                argument: await self._value(needed, values, stack) for argument, needed in provider.needs.items()
            }
            values[key] = await provider.provide(arguments, stack)
        return values[key]


def _annotated(make: Callable[..., Any]) -> Any:
    """The function that has the annotations of a call of `make`."""
    if isinstance(make, type):
        return vars(make).get("__init__") or make.__init__  # type: ignore[misc]
    return make if inspect.isroutine(make) else type(make).__call__


def _is_instance(value: Any, key: Hashable) -> bool:
    try:
        return isinstance(key, type) and isinstance(value, key)
    except TypeError:  # a protocol that does not support isinstance
        return False


def name_of(key: Hashable) -> str:
    """The name of a type for messages."""
    return key.__name__ if isinstance(key, type) else str(key)
