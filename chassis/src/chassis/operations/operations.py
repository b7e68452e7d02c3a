"""The parts that operators see and change while the service runs."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from ..health import Health
from ..periodic import PeriodicTask
from ..settings import ChassisSettings
from ..telemetry import Telemetry
from .access import OperatorAccess
from .audit import Audit
from .log_levels import LogLevels
from .readiness_switch import ReadinessSwitch

if TYPE_CHECKING:
    from ..api.route_list import ListedRoute
    from ..client.client import Client
    from ..faults import Faults


class Operations:
    """The parts of the service that operators see and change. `App` makes it; the admin port serves it."""

    def __init__(
        self,
        telemetry: Telemetry,
        health: Health,
        *,
        settings: Callable[[], ChassisSettings],
        routes: "Callable[[], Sequence[ListedRoute]]",
        faults: "Faults | None",
        clients: "Mapping[str, Client]",
        periodic: Callable[[], Sequence[PeriodicTask]],
        draining: asyncio.Event,
    ) -> None:
        """`settings`, `routes` and `periodic` return those of now. `draining` is set when the service stops."""
        self.telemetry: Telemetry = telemetry
        self.faults: Faults | None = faults
        self.clients: Mapping[str, Client] = clients
        self.periodic: Callable[[], Sequence[PeriodicTask]] = periodic
        self.draining: asyncio.Event = draining
        self.settings: Callable[[], ChassisSettings] = settings
        self.routes: Callable[[], Sequence[ListedRoute]] = routes
        self.access: OperatorAccess = OperatorAccess(token_of(settings()))
        self.audit: Audit = Audit(telemetry.logs)
        self.levels: LogLevels = LogLevels(telemetry.logs, self.audit)
        self.readiness: ReadinessSwitch = ReadinessSwitch(health, self.audit)

    def use_settings(self, before: ChassisSettings, after: ChassisSettings) -> None:
        """Use changed settings."""
        self.access.set_token(token_of(after))
        if before.log_level != after.log_level:  # someone may have set another level meanwhile
            self.levels.configure(after.log_level)


def token_of(settings: ChassisSettings) -> str | None:
    """The token of operators in the settings."""
    return None if settings.admin_token is None else settings.admin_token.get_secret_value()
