"""Puts the routes of an app behind its guard. Every route is protected, unless it is marked as public."""

from collections.abc import Mapping, Sequence

from starlette.routing import BaseRoute, Mount

from .access import (
    METHODS,
    OTHERS,
    AccessControl,
    Requirement,
    Requires,
    by_method,
    for_method,
    marked_methods,
    requirement_of,
)
from .errors import SignatureError
from .guarded import GuardedApp
from .routing import Route
from .wrapped_routes import wrapped

Levels = tuple[Mapping[str, Requirement], ...]


class Protection:
    """The access control of a table of routes, and the requirements that the table has for them.

    `given` are the requirements of routes by their `id`, and `group` that of the group which the routes are in.
    """

    def __init__(
        self,
        control: AccessControl | None,
        given: Mapping[int, Requires],
        *,
        group: Requires | None = None,
        path: str = "",
        groups: Sequence[object] = (),
    ) -> None:
        """`path` is that of the group. `groups` are applications that protect their routes themselves."""
        self._control = control
        self._given = given
        self._path = path
        self._group = by_method(group, f"the group {path}")
        self._groups = groups

    def of(self, routes: Sequence[BaseRoute]) -> list[BaseRoute]:
        """The routes for a router. Routes that are not of handlers are copied, because others may use them too.

        Raises `SignatureError` for a requirement that has no effect.
        """
        return [self._protected(route) for route in routes]

    def _protected(self, route: BaseRoute) -> BaseRoute:
        path = self._path + str(getattr(route, "path", ""))
        if isinstance(route, Route):
            self._protect_handler(route, path, self._levels(route, path))
            return route
        if isinstance(route, Mount) and any(route.app is group for group in self._groups):
            return route
        levels = (*marks_of(getattr(route, "endpoint", None), path), *self._levels(route, path))
        if isinstance(route, Mount):
            self._check_mounted(route, path, levels)
        if self._control is None:
            self._reject(path, *levels)
            return route
        return self._behind_guard(route, self._control, levels)

    def _levels(self, route: BaseRoute, path: str) -> Levels:
        """The requirements of a route and of its group, by method."""
        own = route.requires if isinstance(route, Route) else None
        return by_method(own if own is not None else self._given.get(id(route)), path), self._group

    def _behind_guard(self, route: BaseRoute, control: AccessControl, levels: Levels) -> BaseRoute:
        return wrapped(route, lambda app: GuardedApp(app, control.guard, levels, control.requirement))

    def _protect_handler(self, route: Route, path: str, levels: Levels) -> None:
        if "OPTIONS" in levels[0]:
            raise SignatureError(f"{path}: requires has OPTIONS, which handlers answer without credentials; remove it")
        if self._control is not None:
            route.resource.protect(self._control, *levels)
        else:
            self._reject(path, *levels)
            for name, requirement in route.resource.marks():
                self._reject(name, {OTHERS: requirement})

    def _check_mounted(self, mount: Mount, path: str, levels: Levels) -> None:
        """Protect the handlers below a mount, and reject marks that have no effect there."""
        inner: object = mount.routes
        for route in inner if isinstance(inner, Sequence) else ():
            below = f"{path}{getattr(route, 'path', '')}"
            if isinstance(route, Route):
                own = by_method(route.requires, below)
                self._protect_handler(route, below, (own, *levels))
                self._check_public(route, below, levels)
            elif isinstance(route, Mount):
                self._check_mounted(route, below, levels)
            elif any(marks_of(getattr(route, "endpoint", None), below)):
                raise SignatureError(
                    f"{below} has @requires or @public, which has no effect below the mount {path}; "
                    "pass requires=… to the mount, or use app.group"
                )

    def _check_public(self, route: Route, below: str, levels: Levels) -> None:
        if self._control is None:
            return
        for method, requirement in route.resource.requirements.items():
            outer = for_method(method, *levels) or self._control.requirement
            if requirement.is_public and not outer.is_public:
                raise SignatureError(
                    f"{below}: {method} is public, but its mount needs {outer}; pass requires=PUBLIC to the mount, "
                    "or use app.group"
                )

    def _reject(self, name: str, *levels: Mapping[str, Requirement]) -> None:
        """Raise `SignatureError` for a requirement without a guard that checks it."""
        for requirement in (requirement for level in levels for requirement in level.values()):
            if not requirement.is_public:
                raise SignatureError(
                    f"{name} needs {requirement}, but no authentication protects it; "
                    "call add_auth(app, settings) of chassis.auth in create_app"
                )


def marks_of(endpoint: object, path: str) -> Levels:
    """The requirements that `requires` and `public` have set on an endpoint of Starlette: a function or a class.

    Raises `SignatureError` for a mark on a method that does not serve requests.
    """
    mark = requirement_of(endpoint)
    own: Mapping[str, Requirement] = {} if mark is None else {OTHERS: mark}
    if not isinstance(endpoint, type):
        return (own,)
    methods = {name.upper(): requirement for name, requirement in marked_methods(endpoint).items()}
    for method in methods:
        if method not in METHODS:
            raise SignatureError(
                f"{path}: {endpoint.__name__}.{method.lower()} has @requires or @public, which has no effect there; "
                "write it on the class"
            )
    return methods, own
