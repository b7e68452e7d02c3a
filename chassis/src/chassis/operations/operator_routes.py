"""The routes for operators."""

from ..api.handler import Handler
from ..api.routing import Route
from ..route_limits import RouteLimits
from .cpu_profile import CpuProfile
from .dependencies import Dependencies
from .effective import EffectiveSettings, ServedRoutes
from .fault_rules import FaultRules
from .garbage import GarbageCollector
from .heap_profile import HeapProfile
from .log_lines import LogLines
from .loggers import Logger, Loggers
from .operations import Operations
from .profiling import MAX_SECONDS, RENDER_SECONDS, Profiling
from .readiness import ReadinessByHand
from .requests import Requests
from .schedules import Schedules
from .spans import Spans
from .tasks import Tasks, Threads


def operator_routes(operations: Operations) -> list[Route]:
    """The routes of the chassis that are behind the access rule."""
    telemetry = operations.telemetry
    profiling = Profiling(operations.draining)
    handlers: dict[str, Handler] = {
        "/loggers": Loggers(operations.levels),
        "/loggers/{name}": Logger(operations.levels),
        "/readiness": ReadinessByHand(operations.readiness),
        "/requests": Requests(telemetry.observer.recent),
        "/logs": LogLines(telemetry.logs.writer),
        "/dependencies": Dependencies(operations.clients),
        "/settings": EffectiveSettings(operations.settings),
        "/routes": ServedRoutes(operations.routes),
        "/tasks": Tasks(telemetry.observer.active),
        "/threads": Threads(),
        "/gc": GarbageCollector(),
        "/schedules": Schedules(operations.periodic, telemetry.logs.redactor),
    }
    if telemetry.recent_spans is not None:
        handlers["/spans"] = Spans(telemetry.recent_spans)
    if operations.faults is not None:
        handlers["/faults"] = FaultRules(operations.faults)
    profiles: dict[str, Handler] = {
        "/profile/cpu": CpuProfile(profiling, operations.audit),
        "/profile/heap": HeapProfile(profiling, operations.audit),
    }
    limits = RouteLimits(deadline_seconds=MAX_SECONDS + RENDER_SECONDS)
    return [
        *(Route(path, handler, in_openapi=False) for path, handler in handlers.items()),
        *(Route(path, handler, in_openapi=False, limits=limits) for path, handler in profiles.items()),
    ]
