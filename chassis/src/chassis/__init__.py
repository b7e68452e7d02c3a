"""The async HTTP core of a service: request handlers, middleware, the server and telemetry.

    from chassis import App, Handler, Problem

Names are imported on first use. So `from chassis import run` imports little before a signal handler is set.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .api.access import PUBLIC, Requirement, Requires, public, read_write, requires
    from .api.dependencies import ProviderError
    from .api.errors import SignatureError
    from .api.handler import Handler, Reply, documented, responds
    from .api.idempotency import idempotent
    from .api.idempotency_store import (
        IdempotencyStore,
        IdempotentRequest,
        KeyInUseError,
        KeyReusedError,
        MemoryIdempotencyStore,
        StoredResponse,
    )
    from .api.rate_limit import Quota, RateLimit, RateLimits, RateLimitStore
    from .api.repeatable import RepeatableError, repeatable
    from .api.request_tasks import RequestTasks
    from .api.routing import Route
    from .api.sources import Cookie, Form, Header, Query, UploadFile
    from .app import App
    from .conditional_requests import check_conditions, conditional, etag_of
    from .configuration.live import Live
    from .context import annotate, request_deadline
    from .download import Download
    from .events import Event, EventStream
    from .faults import FaultRule
    from .groups import Group
    from .health import Check
    from .http_server import HttpServerRoute
    from .json_lines import JsonLines
    from .lease import Lease, MemoryLease
    from .pagination import Cursor, page, page_links
    from .periodic_options import IDLE, Idle
    from .problem import Problem
    from .run import run
    from .server import Server
    from .settings import ChassisSettings, load_settings
    from .tasks import Tasks
    from .telemetry import Telemetry

_MODULES = {
    "App": "app",
    "ChassisSettings": "settings",
    "Check": "health",
    "Cookie": "api.sources",
    "Cursor": "pagination",
    "Download": "download",
    "Event": "events",
    "EventStream": "events",
    "FaultRule": "faults",
    "Form": "api.sources",
    "Group": "groups",
    "Handler": "api.handler",
    "Header": "api.sources",
    "HttpServerRoute": "http_server",
    "IDLE": "periodic_options",
    "IdempotencyStore": "api.idempotency_store",
    "IdempotentRequest": "api.idempotency_store",
    "Idle": "periodic_options",
    "JsonLines": "json_lines",
    "KeyInUseError": "api.idempotency_store",
    "KeyReusedError": "api.idempotency_store",
    "Lease": "lease",
    "Live": "configuration.live",
    "MemoryIdempotencyStore": "api.idempotency_store",
    "MemoryLease": "lease",
    "PUBLIC": "api.access",
    "Problem": "problem",
    "ProviderError": "api.dependencies",
    "Query": "api.sources",
    "Quota": "api.rate_limit",
    "RateLimit": "api.rate_limit",
    "RateLimitStore": "api.rate_limit",
    "RateLimits": "api.rate_limit",
    "RepeatableError": "api.repeatable",
    "Reply": "api.handler",
    "RequestTasks": "api.request_tasks",
    "Requirement": "api.access",
    "Requires": "api.access",
    "Route": "api.routing",
    "Server": "server",
    "SignatureError": "api.errors",
    "StoredResponse": "api.idempotency_store",
    "Tasks": "tasks",
    "Telemetry": "telemetry",
    "UploadFile": "api.sources",
    "annotate": "context",
    "check_conditions": "conditional_requests",
    "conditional": "conditional_requests",
    "documented": "api.handler",
    "etag_of": "conditional_requests",
    "idempotent": "api.idempotency",
    "load_settings": "settings",
    "page": "pagination",
    "page_links": "pagination",
    "public": "api.access",
    "read_write": "api.access",
    "repeatable": "api.repeatable",
    "request_deadline": "context",
    "requires": "api.access",
    "responds": "api.handler",
    "run": "run",
}

__all__ = [
    "IDLE",
    "PUBLIC",
    "App",
    "ChassisSettings",
    "Check",
    "Cookie",
    "Cursor",
    "Download",
    "Event",
    "EventStream",
    "FaultRule",
    "Form",
    "Group",
    "Handler",
    "Header",
    "HttpServerRoute",
    "IdempotencyStore",
    "IdempotentRequest",
    "Idle",
    "JsonLines",
    "KeyInUseError",
    "KeyReusedError",
    "Lease",
    "Live",
    "MemoryIdempotencyStore",
    "MemoryLease",
    "Problem",
    "ProviderError",
    "Query",
    "Quota",
    "RateLimit",
    "RateLimitStore",
    "RateLimits",
    "RepeatableError",
    "Reply",
    "RequestTasks",
    "Requirement",
    "Requires",
    "Route",
    "Server",
    "SignatureError",
    "StoredResponse",
    "Tasks",
    "Telemetry",
    "UploadFile",
    "__version__",
    "annotate",
    "check_conditions",
    "conditional",
    "documented",
    "etag_of",
    "idempotent",
    "load_settings",
    "page",
    "page_links",
    "public",
    "read_write",
    "repeatable",
    "request_deadline",
    "requires",
    "responds",
    "run",
]

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{_MODULES[name]}", __name__), name)
        globals()[name] = value
        return value
