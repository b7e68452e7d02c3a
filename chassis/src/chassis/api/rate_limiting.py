"""Puts the routes of an app behind rate limits: that of the service, and those of groups and routes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from starlette.routing import BaseRoute, Mount

from .access import METHODS, OTHERS, AccessControl
from .errors import SignatureError
from .rate_limit import RateLimit, RateLimits, limits_by_method
from .rate_limiter import CountingGuard, LimitedApp, RateLimiter, limited
from .routing import Application, Route
from .wrapped_routes import wrapped

Levels = tuple[Mapping[str, RateLimit], ...]


class RateLimiting:
    """The rate limits of an app. They are asked after the guard, and before the parameters and the body are read.

    A request takes a token of each limit that it has: that of its route, of its group, and of the service.
    """

    def __init__(self, limiter: RateLimiter, default: RateLimit | None) -> None:
        """`default` is the limit of the service."""
        self._limiter = limiter
        self._default: Levels = () if default is None else ({OTHERS: default},)
        self._by_name: dict[str, RateLimit] = {}

    def control(self, control: AccessControl | None) -> AccessControl | None:
        """The access control, whose rejections count for the limit of the service."""
        limits = [limit for level in self._default for limit in level.values()]
        if control is None or not limits or isinstance(control.guard, CountingGuard):
            return control
        return replace(control, guard=CountingGuard(control.guard, self._limiter, limits))

    def of(
        self,
        routes: Sequence[BaseRoute],
        given: dict[int, RateLimits],
        *,
        group: RateLimits | None = None,
        path: str = "",
        groups: Sequence[object] = (),
    ) -> dict[int, BaseRoute]:
        """The routes that replace others in a router, by the `id` of those. Routes of handlers are changed in place.

        `given` and `group` are as for `Protection`.
        """
        outer = (limits_by_method(group, f"{path}/*"), *self._default)
        replaced: dict[int, BaseRoute] = {}
        for route in routes:
            place = path + str(getattr(route, "path", ""))
            own = given.get(id(route))
            if isinstance(route, Route):
                self._limit_handler(route, place, (limits_by_method(own or route.rate_limit, place), *outer))
                continue
            if isinstance(route, Mount) and any(route.app is member for member in groups):
                continue
            if isinstance(route, Mount):
                self._limit_mounted(route, place)
            levels = (limits_by_method(own, place), *outer)
            if any(level for level in levels):
                replaced[id(route)] = self._behind_limits(route, place, levels)
        return replaced

    def _behind_limits(self, route: BaseRoute, place: str, levels: Levels) -> BaseRoute:
        if any(method != OTHERS for level in levels for method in level):
            raise SignatureError(f"{place}: rate_limit has methods, but this is not a route of a handler; pass one limit")
        limits = [self._known(level[OTHERS], place) for level in levels if level]
        return wrapped(route, lambda app: LimitedApp(app, self._limiter, limits))

    def _limit_handler(self, route: Route, place: str, levels: Levels) -> None:
        limits = {
            method: [
                self._known(limit, place)
                for level in levels
                if (limit := level.get(method) or level.get(OTHERS)) is not None
            ]
            for method in METHODS
        }
        unused = set(levels[0]) - {OTHERS, *route.resource.operations}
        if unused:
            raise SignatureError(
                f"{place}: rate_limit has {', '.join(sorted(unused))}, but the handler has no such method; "
                f"use one of {', '.join(route.resource.operations)}, or '{OTHERS}'"
            )
        route.resource.limit(limits, lambda app, limits_of_method: limited(app, self._limiter, limits_of_method))

    def _limit_mounted(self, mount: Mount, path: str) -> None:
        """The handlers below a mount have limits of their own only, because the mount has the others."""
        inner: object = mount.routes
        for route in inner if isinstance(inner, Sequence) else ():
            place = path + str(getattr(route, "path", ""))
            if isinstance(route, Route):
                self._limit_handler(route, place, (limits_by_method(route.rate_limit, place),))
            elif isinstance(route, Mount):
                self._limit_mounted(route, place)

    def _known(self, limit: RateLimit, place: str) -> RateLimit:
        """The limit. Raises `SignatureError` if another limit has its name."""
        other = self._by_name.setdefault(limit.name, limit)
        if other != limit:
            raise SignatureError(
                f"{place}: two rate limits have the name {limit.name!r}: {other} and {limit}; "
                "give one another name, or pass the same to both routes"
            )
        return limit
