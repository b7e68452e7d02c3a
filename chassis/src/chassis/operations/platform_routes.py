"""Endpoints for the platform, open to everybody who reaches the port: liveness, readiness, metrics, info."""

import platform
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ..api.handler import Handler
from ..api.routing import Route
from ..health import Health
from ..telemetry import Telemetry
from ..version import __version__


def platform_routes(health: Health, telemetry: Telemetry) -> list[Route]:
    """The routes that need no access. Without an admin port, the public port serves them."""
    return [
        Route("/healthz", Liveness(), in_openapi=False),
        Route("/readyz", Readiness(health), in_openapi=False),
        Route("/metrics", MetricsPage(telemetry), in_openapi=False),
        Route("/info", Info(telemetry), in_openapi=False),
    ]


class Liveness(Handler):
    """200 as long as the process responds. It checks no dependency: a database outage must not restart pods."""

    async def get(self) -> dict[str, str]:
        return {"status": "alive"}


class Readiness(Handler):
    """200 when the service has started, is not draining, and every required check passes; else 503."""

    def __init__(self, health: Health) -> None:
        self._health = health

    async def get(self) -> Response:
        ready, document = await self._health.report()
        return JSONResponse(document, 200 if ready else 503)


class MetricsPage(Handler):
    """The metrics as Prometheus text, or as OpenMetrics with exemplars when the scraper accepts it."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry

    async def get(self, request: Request) -> Response:
        telemetry, headers = self._telemetry, request.headers
        telemetry.observer.observe()
        compress = accepts_gzip(headers.get("accept-encoding", ""))
        page = await telemetry.exposition.page(headers.get("accept", ""), compress=compress)
        fields = {"content-type": page.content_type, "vary": "Accept, Accept-Encoding"}
        if page.is_compressed:
            fields["content-encoding"] = "gzip"
        return Response(page.content, headers=fields)


def accepts_gzip(accept_encoding: str) -> bool:
    """Whether `Accept-Encoding` names `gzip` with a weight above 0 (RFC 9110, section 12.5.3)."""
    for coding in accept_encoding.lower().split(","):
        name, _, weight = coding.replace(" ", "").partition(";q=")
        if name in ("gzip", "x-gzip"):
            return not weight or weight.strip("0.") != ""
    return False


class Info(Handler):
    """Name, version and start time of the service."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._info = {
            "name": telemetry.service,
            "version": telemetry.version,
            "commit": telemetry.commit,
            "chassis": __version__,
            "python": platform.python_version(),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    async def get(self) -> dict[str, str]:
        return self._info
