"""Endpoints for the platform and operators: liveness, readiness, metrics, info."""

import platform
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .api.handler import Handler
from .api.routing import Route
from .faults import MAX_RULES, FaultRule, Faults, UnknownClientError
from .health import Health
from .problem import Problem
from .telemetry import Telemetry
from .version import __version__


def admin_routes(health: Health, telemetry: Telemetry) -> list[Route]:
    """The routes of the admin port. Without an admin port, the public port serves them."""
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


class FaultRules(Handler):
    """The faults that are injected. Only the admin port has them, and only with `APP_FAULT_INJECTION`."""

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    async def get(self) -> list[dict[str, Any]]:
        return self._faults.documents()

    async def put(
        self, request: Request, body: Annotated[list[FaultRule], Field(max_length=MAX_RULES)]
    ) -> list[dict[str, Any]]:
        try:
            self._faults.set(body, by=_client_of(request))
        except UnknownClientError as error:
            raise Problem(422, f"{error}.") from None
        return self._faults.documents()

    async def delete(self, request: Request) -> None:
        self._faults.clear(by=_client_of(request))


def _client_of(request: Request) -> str:
    return request.client.host if request.client is not None else "unknown"


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
