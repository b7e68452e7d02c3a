"""What templates ship today: FastAPI with OpenTelemetry, a Prometheus instrumentator and structlog."""

from .bare_fastapi import create_app
from .part_opentelemetry import add_opentelemetry
from .part_prometheus import add_prometheus
from .part_structlog import add_access_log
from .serving import serve

if __name__ == "__main__":
    app = create_app()
    add_access_log(app)
    add_prometheus(app)
    add_opentelemetry(app)
    serve(app)
