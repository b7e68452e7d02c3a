"""The async HTTP core of a service: request handlers, middleware, the server, and what observes them.

    from chassis import App, Handler, Problem

Names are imported when they are first used, so that `from chassis import run` takes no time before a signal handler
is set.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
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
    from .api.routing import Route
    from .api.sources import Cookie, Form, Header, Query, UploadFile
    from .app import App
    from .context import annotate
    from .groups import Group
    from .health import Check
    from .http_server import HttpServerRoute
    from .lease import Lease, MemoryLease
    from .periodic import IDLE, Idle
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
    "Form": "api.sources",
    "Group": "groups",
    "Handler": "api.handler",
    "Header": "api.sources",
    "HttpServerRoute": "http_server",
    "IDLE": "periodic",
    "IdempotencyStore": "api.idempotency_store",
    "IdempotentRequest": "api.idempotency_store",
    "Idle": "periodic",
    "KeyInUseError": "api.idempotency_store",
    "KeyReusedError": "api.idempotency_store",
    "Lease": "lease",
    "MemoryIdempotencyStore": "api.idempotency_store",
    "MemoryLease": "lease",
    "Problem": "problem",
    "ProviderError": "api.dependencies",
    "Query": "api.sources",
    "Reply": "api.handler",
    "Route": "api.routing",
    "Server": "server",
    "SignatureError": "api.errors",
    "StoredResponse": "api.idempotency_store",
    "Tasks": "tasks",
    "Telemetry": "telemetry",
    "UploadFile": "api.sources",
    "annotate": "context",
    "documented": "api.handler",
    "idempotent": "api.idempotency",
    "load_settings": "settings",
    "responds": "api.handler",
    "run": "run",
}

__all__ = [
    "IDLE",
    "App",
    "ChassisSettings",
    "Check",
    "Cookie",
    "Form",
    "Group",
    "Handler",
    "Header",
    "HttpServerRoute",
    "IdempotencyStore",
    "IdempotentRequest",
    "Idle",
    "KeyInUseError",
    "KeyReusedError",
    "Lease",
    "MemoryIdempotencyStore",
    "MemoryLease",
    "Problem",
    "ProviderError",
    "Query",
    "Reply",
    "Route",
    "Server",
    "SignatureError",
    "StoredResponse",
    "Tasks",
    "Telemetry",
    "UploadFile",
    "__version__",
    "annotate",
    "documented",
    "idempotent",
    "load_settings",
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
