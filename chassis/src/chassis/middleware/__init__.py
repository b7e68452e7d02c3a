"""The layers around the router; pure ASGI.

From the outside: telemetry, the guard, the owner's middleware, problem responses, the router. `build_stack` puts them
together.
"""

from .guard import GuardMiddleware
from .problems import ProblemMiddleware
from .security import DEFAULT_SECURITY_HEADERS, security_headers
from .stack import build_stack
from .telemetry import TelemetryMiddleware

__all__ = [
    "DEFAULT_SECURITY_HEADERS",
    "GuardMiddleware",
    "ProblemMiddleware",
    "TelemetryMiddleware",
    "build_stack",
    "security_headers",
]
