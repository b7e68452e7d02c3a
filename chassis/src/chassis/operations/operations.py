"""What operators see and change while the service runs."""

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..api.routing import Route
from ..faults import Faults
from ..health import Health
from ..telemetry import Telemetry
from .access import OperatorAccess
from .audit import Audit

if TYPE_CHECKING:
    from ..client.client import Client


class Operations:
    """The parts of the service that operators see and change. `App` makes it; the admin port serves it."""

    def __init__(
        self,
        telemetry: Telemetry,
        health: Health,
        *,
        token: str | None,
        faults: Faults | None,
        clients: "Mapping[str, Client]",
        draining: asyncio.Event,
    ) -> None:
        self.telemetry = telemetry
        self.health = health
        self.faults = faults
        self.clients = clients
        self.draining = draining
        self.access: OperatorAccess = OperatorAccess(token)
        self.audit: Audit = Audit(telemetry.logs)
        self.own_routes: list[Route] = []
        """The routes that the owner of the service has added to the admin port."""
