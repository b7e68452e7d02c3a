"""`Endpoint`: the methods of one handler, behind their guard and their rate limits."""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from typing import Any

from starlette.convertors import Convertor
from starlette.types import Receive, Scope, Send

from ..problem import Problem
from ..response_sender import send_response
from .access import AccessControl, Requirement, for_method, marked_methods, requirement_of
from .dependencies import Providers
from .errors import SignatureError
from .guarded import guarded
from .handler import VERBS, Handler
from .negotiation import Encoder
from .operation import Operation
from .rate_limit import RateLimit

Application = Callable[[Scope, Receive, Send], Coroutine[Any, Any, None]]
Wrap = Callable[[Application, Sequence[RateLimit]], Application]


class Endpoint:
    """An ASGI application for the handler of one route. It dispatches by HTTP method."""

    def __init__(self, handler: Handler, convertors: Mapping[str, Convertor[Any]]) -> None:
        self.operations: dict[str, Operation] = {
            verb.upper(): Operation(handler, verb, convertors)
            for verb in VERBS
            if getattr(handler, verb, None) is not None
        }
        # The attributes of a function, because Sentry reads them from the endpoint in the scope.
        self.__name__: str = type(handler).__name__
        self.__qualname__: str = type(handler).__qualname__
        self.__module__: str = type(handler).__module__
        if not self.operations:
            raise SignatureError(
                f"{type(handler).__name__} has no method for requests; define at least one of {', '.join(VERBS)}"
            )
        self.requirements: dict[str, Requirement] = {}
        """What clients need, by HTTP method. Empty if nothing protects the route."""
        self._class_requirement = requirement_of(type(handler))
        for name in marked_methods(type(handler)):
            if name not in VERBS:
                raise SignatureError(
                    f"{type(handler).__name__}.{name} has @requires or @public, which has an effect on "
                    f"{', '.join(VERBS)} and on the class; write it there"
                )
        self.rate_limits: dict[str, Sequence[RateLimit]] = {}
        """The rate limits, by HTTP method. Empty if the route has none."""
        self._control: AccessControl | None = None
        self._applications = self._unguarded(Providers())
        self._by_method = self._guarded()
        self.allow: str = ", ".join([*self._by_method, "OPTIONS"])

    def use(self, providers: Providers, encoders: Mapping[str, Encoder]) -> None:
        """Use the providers of the application, and its encoders for media types other than JSON.

        Raises `SignatureError` for a parameter whose type has no provider.
        """
        for operation in self.operations.values():
            operation.use(providers, encoders)
        self._applications = self._unguarded(providers)
        self._by_method = self._guarded()

    def marks(self) -> Iterator[tuple[str, Requirement]]:
        """The requirements that `requires` and `public` have set on the methods and on the class, with their names."""
        for operation in self.operations.values():
            requirement = requirement_of(operation.method) or self._class_requirement
            if requirement is not None:
                yield operation.name, requirement

    def protect(self, control: AccessControl, *levels: Mapping[str, Requirement]) -> None:
        """Ask the guard before each request. `levels` are the requirements of the route and of its group."""
        marks = dict(self.marks())
        for method, operation in self.operations.items():
            requirement = marks.get(operation.name) or for_method(method, *levels) or control.requirement
            self.requirements[method] = requirement
        self._control = control
        self._by_method = self._guarded()

    def limit(self, limits: Mapping[str, Sequence[RateLimit]], wrap: Wrap) -> None:
        """Put the methods behind their rate limits, inside of the guard. `wrap` does so for one of them."""
        self.rate_limits = {method: limits[method] for method in self.operations if limits.get(method)}
        for method, limits_of_method in self.rate_limits.items():
            self._applications[method] = wrap(self._applications[method], limits_of_method)
        self._by_method = self._guarded()

    def _guarded(self) -> dict[str, Application]:
        applications = dict(self._applications)
        if self._control is not None:
            for method, requirement in self.requirements.items():
                applications[method] = guarded(applications[method], self._control.guard, requirement)
        if "GET" in applications:
            applications["HEAD"] = applications["GET"]
        return applications

    def _unguarded(self, providers: Providers) -> dict[str, Application]:
        """The application for each method of the handler: its operation, wrapped if it is idempotent."""
        applications: dict[str, Application] = {}
        for method, operation in self.operations.items():
            options = operation.idempotency
            applications[method] = operation.__call__  # a method takes half as long to call as an instance
            if options is not None:
                from .idempotent_operation import IdempotentOperation  # few services have such methods

                applications[method] = IdempotentOperation(operation, options, providers).__call__
        return applications

    def check(self) -> None:
        """Raise `SignatureError` for a parameter that cannot be read from a request and is not provided."""
        for operation in self.operations.values():
            operation.check()

    # An `async def`, because third-party middleware takes other callables for ASGI 2.
    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.dispatch(scope, receive, send)

    def dispatch(self, scope: Scope, receive: Receive, send: Send) -> Coroutine[Any, Any, None]:
        operation = self._by_method.get(scope["method"])
        if operation is not None:
            return operation(scope, receive, send)
        if scope["method"] == "OPTIONS":
            return send_response(send, 204, [(b"allow", self.allow.encode())], b"")
        detail = f"The method {scope['method']} is not allowed; use one of {self.allow}."
        raise Problem(405, detail, headers={"allow": self.allow})
