"""The order of the layers around a router."""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send

from ..problem import ProblemOf
from ..telemetry import Telemetry
from ..telemetry.route_template import FindRoute
from .guard import GuardMiddleware, LimitsOf
from .load_shedder import LoadShedder
from .problems import ProblemMiddleware
from .telemetry import TelemetryMiddleware


def build_stack(
    app: ASGIApp,
    *,
    telemetry: Telemetry,
    max_body_bytes: int,
    deadline_seconds: float,
    load_shedder: LoadShedder | None = None,
    middleware: Sequence[Middleware] = (),
    scope_app: object = None,
    problems: Mapping[type[Exception], ProblemOf] | None = None,
    security_headers: Mapping[str, str] | None = None,
    log_success: bool = True,
    traces: bool = True,
    find_route: FindRoute | None = None,
    limits_of: LimitsOf | None = None,
    on_guard: Callable[[GuardMiddleware], object] = lambda _guard: None,
) -> ASGIApp:
    """`app` inside of telemetry, the guard, `middleware` (from the outermost to the innermost) and problem responses.

    `middleware` sees every response, also the problem documents of the guard and of failed handlers. Its own exceptions
    become problem documents too. Without any middleware, the guard writes all problem documents.

    `middleware` finds `scope_app` in the scope, as `request.app`.

    `problems` maps each expected exception that is not an `HTTPException` to its response.

    See `GuardMiddleware` for the limits and `limits_of`, and `TelemetryMiddleware` for `security_headers`,
    `log_success`, `traces` and `find_route`. `on_guard` gets the guard, whose limits can change.
    """
    if middleware:
        app = ProblemMiddleware(app, problems=problems)
    for cls, args, kwargs in reversed(middleware):
        app = cls(app, *args, **kwargs)
    if middleware:
        app = _with_app(app, scope_app)
    guard = GuardMiddleware(
        app,
        max_body_bytes=max_body_bytes,
        deadline_seconds=deadline_seconds,
        timed_out=telemetry.metrics.timed_out_requests,
        load_shedder=load_shedder,
        problems=problems,
        forwards_rejections=bool(middleware),
        limits_of=limits_of,
    )
    on_guard(guard)
    return TelemetryMiddleware(
        guard.__call__,  # a method takes half as long to call as an instance
        telemetry=telemetry,
        security_headers=security_headers,
        log_success=log_success,
        traces=traces,
        find_route=find_route,
    )


def _with_app(inner: ASGIApp, scope_app: object) -> ASGIApp:
    def call(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        scope["app"] = scope_app
        return inner(scope, receive, send)

    return call
