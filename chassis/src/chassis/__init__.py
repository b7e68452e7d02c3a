"""The async HTTP core of a service: request handlers, middleware, the server, and what observes them.

    from chassis import App, Handler, Problem

Names are imported when they are first used, so that `from chassis import run` takes no time before a signal handler
is set.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .api.handler import Handler, Reply, responds
    from .api.routing import Route
    from .api.signature import SignatureError
    from .app import App
    from .context import annotate
    from .health import Check
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
    "Handler": "api.handler",
    "Problem": "problem",
    "Reply": "api.handler",
    "Route": "api.routing",
    "Server": "server",
    "SignatureError": "api.signature",
    "Tasks": "tasks",
    "Telemetry": "telemetry",
    "annotate": "context",
    "load_settings": "settings",
    "responds": "api.handler",
    "run": "run",
}

__all__ = [
    "App",
    "ChassisSettings",
    "Check",
    "Handler",
    "Problem",
    "Reply",
    "Route",
    "Server",
    "SignatureError",
    "Tasks",
    "Telemetry",
    "__version__",
    "annotate",
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
