"""`/settings` and `/routes`: the service as it was configured and put together."""

from collections.abc import Callable, Sequence
from typing import Any

from ..api.handler import Handler
from ..api.route_list import ListedRoute
from ..configuration.effective import effective_settings
from ..settings import ChassisSettings


class EffectiveSettings(Handler):
    """Each setting with its value and its source. Secrets are masked."""

    def __init__(self, settings: Callable[[], ChassisSettings]) -> None:
        self._settings = settings

    async def get(self) -> list[dict[str, Any]]:
        return [setting.document() for setting in effective_settings(self._settings())]


class ServedRoutes(Handler):
    """The routes of the public port."""

    def __init__(self, routes: Callable[[], Sequence[ListedRoute]]) -> None:
        self._routes = routes

    async def get(self) -> list[dict[str, Any]]:
        return [route.document() for route in self._routes()]
