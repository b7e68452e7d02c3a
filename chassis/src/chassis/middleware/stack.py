"""The order of the layers around a router."""

from collections.abc import Mapping, Sequence

from starlette.middleware import Middleware
from starlette.types import ASGIApp

from ..telemetry import Telemetry
from .guard import GuardMiddleware
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
    problems: Mapping[type[Exception], int] | None = None,
    security_headers: Mapping[str, str] | None = None,
    log_success: bool = True,
    traces: bool = True,
) -> ASGIApp:
    """`app` inside of telemetry, the guard, `middleware` (from the outermost to the innermost) and problem responses.

    `middleware` sees every response, also the problem documents of the guard and of failed handlers. What it raises
    itself becomes a problem document too. Without any, the guard writes all problem documents, which saves a layer.

    `problems` is the status of each expected exception that is not an `HTTPException`.

    See `GuardMiddleware` for the limits, and `TelemetryMiddleware` for `security_headers`, `log_success` and `traces`.
    """
    if middleware:
        app = ProblemMiddleware(app, problems=problems)
    for cls, args, kwargs in reversed(middleware):
        app = cls(app, *args, **kwargs)
    app = GuardMiddleware(
        app,
        max_body_bytes=max_body_bytes,
        deadline_seconds=deadline_seconds,
        timed_out=telemetry.metrics.timed_out_requests,
        load_shedder=load_shedder,
        problems=problems,
        forwards_rejections=bool(middleware),
    )
    return TelemetryMiddleware(
        app, telemetry=telemetry, security_headers=security_headers, log_success=log_success, traces=traces
    )
