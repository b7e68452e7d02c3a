"""`AppRoutes`: the routes of an app, and what all of them have in common."""

from collections.abc import Hashable, Mapping
from typing import Any

from .api.access import AccessControl, Requires
from .api.dependencies import Override
from .api.handler import Handler
from .api.negotiation import Encoder
from .api.rate_limit import RateLimits, RateLimitStore
from .api.rate_limiter import CallerOf
from .api.routing import Route
from .groups import Group, RouteTable
from .operations.admin_router import check_own_path
from .ports import Parts
from .problem import ProblemOf
from .route_limits import RouteLimits


class AppRoutes(RouteTable):
    """The routes of an `App`, their groups, dependencies, problems and formats, and who may use them how often."""

    def __init__(self, *, name: str, version: str, security_headers: Mapping[str, str] | None) -> None:
        self.name: str = name
        self.version: str = version
        self._parts = Parts(security_headers=dict(security_headers or {}))
        super().__init__(self._parts.routes, self._parts.middleware)
        self.requires: dict[int, Requires] = self._parts.requires
        self.rate_limits: dict[int, RateLimits] = self._parts.rate_limits

    @property
    def parts(self) -> Parts:
        """The providers and problems that were added, for parts of the chassis that are not requests: consumers."""
        return self._parts

    def group(
        self,
        path: str,
        *,
        title: str | None = None,
        version: str | None = None,
        description: str = "",
        requires: Requires | None = None,
        rate_limit: RateLimits | None = None,
    ) -> Group:
        """Add a group of routes below `path` with its own middleware and OpenAPI document, such as an API version.

            v2 = app.group("/v2", version="2")
            v2.add_route("/orders", Orders(store))

        `requires` is what clients need for its routes, unless a route has its own (`add_route`). `rate_limit` is a
        limit for all of its routes together, beside those of the service and of a route.
        """
        self._must_not_be_built()
        info = {"title": title or self.name, "version": version or self.version, "description": description}
        group = Group(path, info, requires, rate_limit)
        self._parts.groups.append(group)
        self.add_routes(group.mounted())
        return group

    def add_problems(self, problems: Mapping[type[Exception], ProblemOf]) -> None:
        """Map exception types, and their subclasses, to the status of a problem document.

        This keeps HTTP out of domain code: a store raises `OrderNotFoundError`, and this table maps it to 404. The text
        of the exception becomes the `detail`, so clients will read it. For more than a status, map the type to a
        function that takes the exception and returns a `Problem`.
        """
        self._must_not_be_built()
        self._parts.problems |= problems

    def provide(self, provided_type: Hashable, provider: Any) -> None:
        """Provide a dependency: an argument for each handler parameter that is annotated with `provided_type`.

            app.provide(AsyncSession, sessions)      # def get(self, order_id: UUID, session: AsyncSession) -> Order

        `provider` is called once for each request that needs it. Its own parameters can be `Request` and other provided
        types. It is a function, an `async def`, a class, or an (async) generator function that yields the value. If
        it returns an (async) context manager, that is entered. Any object that cannot be called is the value itself.

        Generators resume and context managers exit in reverse order, after the handler and before the response is
        sent. They get the exception that the handler raised, so a transaction can be rolled back. If a commit fails
        there, the response is 500.

        A `def` runs on the event loop and must not block. A provider may raise a `Problem`, such as 401. Circular
        dependencies and types without a provider stop the start with `ProviderError` or `SignatureError`.
        """
        self._must_not_be_built()
        self._parts.providers.add(provided_type, provider)

    def override(self, provided_type: Hashable, provider: Any) -> Override:
        """Replace a provider in a test, permanently or for a `with` block. Works while the app runs."""
        return self._parts.providers.override(provided_type, provider)

    def set_access_control(self, control: AccessControl) -> None:
        """Protect every route that is not public, for an authentication part such as `chassis.auth`.

        `/openapi.json`, `/docs` and the endpoints for operation stay open. Raises `ValueError` for a second one.
        """
        self._must_not_be_built()
        if self._parts.access_control is not None:
            raise ValueError("the app has authentication already; call add_auth once")
        self._parts.access_control = control

    def configure_rate_limits(self, *, store: RateLimitStore | None = None, caller_of: CallerOf | None = None) -> None:
        """Change how requests are counted for rate limits.

        `store` is shared by the instances of the service; by default, each one counts alone. `caller_of` takes the
        ASGI scope and returns the caller. By default, and if it returns None, the caller is the principal or, without
        authentication, the address of the client. For the limits, see `APP_RATE_LIMIT_REQUESTS` and `add_route`.
        """
        self._must_not_be_built()
        self._parts.rate_limit_store = store
        self._parts.caller_of = caller_of

    def add_encoder(self, media_type: str, encode: Encoder) -> None:
        """Add content negotiation: send results as `media_type` to clients that prefer it to JSON (`Accept`).

        Clients that accept none of the media types get 406. `encode` takes the result as JSON types (dictionaries,
        lists, text, numbers) and returns bytes. It applies to all handlers, unless they return a `Response`.
        """
        self._must_not_be_built()
        self._parts.encoders[media_type] = encode

    def extend_openapi(self, members: Mapping[str, Any]) -> None:
        """Add members to the OpenAPI document, such as `servers`, `security`, or schemes in `components`.

        Objects are merged member by member. Any other value replaces the value in the document.
        """
        self._must_not_be_built()
        self._parts.openapi.append(members)

    def add_admin_route(
        self, path: str, handler: Handler, *, name: str | None = None, deadline_seconds: float | None = None
    ) -> None:
        """Add a route for operators to the admin port, behind its access rule (see `OperatorAccess`).

            app.add_admin_route("/cache", Cache(products))

        It is never on the public port. Each request that is not a read is an audit line. `deadline_seconds` replaces
        the 30 seconds of the admin port. Raises `ValueError` for a path that the chassis uses.
        """
        self._must_not_be_built()
        check_own_path(path)
        limits = RouteLimits(deadline_seconds=deadline_seconds)
        self._parts.admin_routes.append(Route(path, handler, name=name, in_openapi=False, limits=limits))
