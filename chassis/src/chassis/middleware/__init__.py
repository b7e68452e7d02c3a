"""Code between request and response; pure ASGI, listed in order in `app.py`."""

from .guard import GuardMiddleware
from .load_shedder import LoadShedder
from .security import SecurityHeadersMiddleware
from .telemetry import TelemetryMiddleware

__all__ = ["GuardMiddleware", "LoadShedder", "SecurityHeadersMiddleware", "TelemetryMiddleware"]
