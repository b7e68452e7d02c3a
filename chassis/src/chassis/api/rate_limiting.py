"""Puts the routes of an app behind rate limits: that of the service, and those of groups and routes."""

from collections.abc import Mapping, Sequence

from starlette.routing import BaseRoute, Mount

from .access import METHODS, OTHERS, AccessControl, Requires
from .errors import SignatureError
from .rate_limit import RateLimit, RateLimits, limits_by_method
from .rate_limiter import CountingGuard, LimitedApp, RateLimiter, limited
from .routing import Route
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
        self._all: list[list[RateLimit]] = []
        """The limits of each method of each route. A list is shared with what counts the requests."""

    def set_default(self, default: RateLimit | None) -> None:
        """Use another limit of the service from now on. A service begins and ends to have one only with a restart."""
        if default is None or not self._default:
            return
        last = self._default[0][OTHERS]
        if default == last:
            return
        self._default = ({OTHERS: default},)
        self._by_name[default.name] = default
        for limits in self._all:
            limits[:] = [default if limit is last else limit for limit in limits]
        self._limiter.forget(default.name)

    def control(self, control: AccessControl | None) -> AccessControl | None:
        """The access control, whose rejections count for the limit of the service."""
        limits = self._kept([limit for level in self._default for limit in level.values()])
        if control is None or not limits or isinstance(control.guard, CountingGuard):
            return control
        return control._replace(guard=CountingGuard(control.guard, self._limiter, limits))

    def of(
        self,
        routes: Sequence[BaseRoute],
        given: Mapping[int, RateLimits],
        requires: dict[int, Requires],
        *,
        group: RateLimits | None = None,
        path: str = "",
        groups: Sequence[object] = (),
    ) -> list[BaseRoute]:
        """The routes for a router. Routes that are not of handlers are copied, because others may use them too.

        `given` are the rate limits of routes by their `id`, and `group` that of the group which the routes are in.
        `requires` gets the requirements of copies, too.
        """
        outer = (limits_by_method(group, f"{path}/*"), *self._default)
        limited_routes: list[BaseRoute] = []
        for route in routes:
            limited_route = self._limited(route, given.get(id(route)), outer, path, groups)
            limited_routes.append(limited_route)
            if id(route) in requires:
                requires[id(limited_route)] = requires[id(route)]
        return limited_routes

    def _limited(
        self, route: BaseRoute, own: RateLimits | None, outer: Levels, path: str, groups: Sequence[object]
    ) -> BaseRoute:
        place = path + str(getattr(route, "path", ""))
        if isinstance(route, Route):
            self._limit_handler(route, place, (limits_by_method(own or route.rate_limit, place), *outer))
            return route
        if isinstance(route, Mount):
            if any(route.app is member for member in groups):
                return route
            self._limit_mounted(route, place)
        levels = (limits_by_method(own, place), *outer)
        return self._behind_limits(route, place, levels) if any(levels) else route

    def _behind_limits(self, route: BaseRoute, place: str, levels: Levels) -> BaseRoute:
        if any(method != OTHERS for level in levels for method in level):
            raise SignatureError(
                f"{place}: rate_limit has methods, but this route is not of a handler; pass one RateLimit"
            )
        limits = self._kept([self._known(level[OTHERS], place) for level in levels if level])
        return wrapped(route, lambda app: LimitedApp(app, self._limiter, limits))

    def _limit_handler(self, route: Route, place: str, levels: Levels) -> None:
        limits = {
            method: self._kept(
                [
                    self._known(limit, place)
                    for level in levels
                    if (limit := level.get(method) or level.get(OTHERS)) is not None
                ]
            )
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

    def _kept(self, limits: list[RateLimit]) -> list[RateLimit]:
        if limits:
            self._all.append(limits)
        return limits

    def _known(self, limit: RateLimit, place: str) -> RateLimit:
        """The limit. Raises `SignatureError` if another limit has its name."""
        other = self._by_name.setdefault(limit.name, limit)
        if other != limit:
            raise SignatureError(
                f"{place}: two rate limits have the name {limit.name!r}: {other} and {limit}; "
                "give one another name, or pass the same to both routes"
            )
        return limit
