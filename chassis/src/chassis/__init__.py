"""The async HTTP core: request handlers, middlewares, the server instance, and what observes them.

This folder belongs to the template and is replaced whole by an update; write your code beside it.
"""

from .api.handler import Handler, Reply, responds
from .api.routing import Route
from .app import App
from .health import Check
from .http.limits import ConnectionLimits
from .middleware.load_shedder import LoadShedder
from .problem import Problem
from .server import Server
from .settings import ChassisSettings, load_settings
from .tasks import Tasks
from .telemetry import Telemetry
from .version import __version__

__all__ = [
    "App",
    "ChassisSettings",
    "Check",
    "ConnectionLimits",
    "Handler",
    "LoadShedder",
    "Problem",
    "Reply",
    "Route",
    "Server",
    "Tasks",
    "Telemetry",
    "__version__",
    "load_settings",
    "responds",
]
