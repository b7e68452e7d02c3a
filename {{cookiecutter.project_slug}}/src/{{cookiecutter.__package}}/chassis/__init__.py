"""The async HTTP core: request handlers, middlewares, the server instance, and what observes them.

This folder belongs to the template and is replaced whole by an update; write your code beside it.
"""

from .app import App
from .handler import Handler, Reply, responds
from .health import Check
from .limits import Limits
from .load import LoadControl
from .problem import Problem
from .routing import Route
from .server import Server
from .settings import ChassisSettings, load_settings
from .tasks import Tasks
from .telemetry import Telemetry
from .version import __version__

__all__ = [
    "App",
    "ChassisSettings",
    "Check",
    "Handler",
    "Limits",
    "LoadControl",
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
