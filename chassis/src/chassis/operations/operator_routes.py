"""The routes for operators."""

from ..api.routing import Route
from .dependencies import Dependencies
from .fault_rules import FaultRules
from .log_lines import LogLines
from .loggers import Logger, Loggers
from .operations import Operations
from .readiness import ReadinessByHand
from .requests import Requests
from .spans import Spans


def operator_routes(operations: Operations) -> list[Route]:
    """The routes of the chassis that are behind the access rule."""
    telemetry = operations.telemetry
    handlers = {
        "/loggers": Loggers(operations.levels),
        "/loggers/{name}": Logger(operations.levels),
        "/readiness": ReadinessByHand(operations.readiness),
        "/requests": Requests(telemetry.observer.recent),
        "/logs": LogLines(telemetry.logs.writer),
        "/dependencies": Dependencies(operations.clients),
    }
    if telemetry.recent_spans is not None:
        handlers["/spans"] = Spans(telemetry.recent_spans)
    if operations.faults is not None:
        handlers["/faults"] = FaultRules(operations.faults)
    return [Route(path, handler, in_openapi=False) for path, handler in handlers.items()]
