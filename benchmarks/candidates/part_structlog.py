"""FastAPI with structlog: a request id bound, and a JSON access line for each request, in `BaseHTTPMiddleware`.

structlog is configured as the page "Performance" of its documentation says, for speed.
"""

import logging
from time import perf_counter
from uuid import uuid4

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from opentelemetry.trace import get_current_span
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint

from .bare_fastapi import create_app
from .serving import serve

log = structlog.get_logger()


class AccessLogMiddleware(BaseHTTPMiddleware):
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        began = perf_counter()
        request_id = request.headers.get("x-request-id") or uuid4().hex
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(request_id=request_id)
        response = await call_next(request)
        response.headers["x-request-id"] = request_id
        route = request.scope.get("route")
        span = get_current_span().get_span_context()
        log.info(
            "request",
            method=request.method,
            route=getattr(route, "path", None),
            path=request.url.path,
            status=response.status_code,
            duration_ms=round((perf_counter() - began) * 1000, 3),
            client=request.client.host if request.client else None,
            trace_id=f"{span.trace_id:032x}",
            span_id=f"{span.span_id:016x}",
        )
        return response


def add_access_log(app: FastAPI) -> None:
    structlog.configure(
        cache_logger_on_first_use=True,
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        logger_factory=structlog.BytesLoggerFactory(),
    )
    app.add_middleware(AccessLogMiddleware)


if __name__ == "__main__":
    app = create_app()
    add_access_log(app)
    serve(app)
