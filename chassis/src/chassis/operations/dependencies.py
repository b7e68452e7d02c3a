"""`/dependencies`: the state of the clients of other services."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..api.handler import Handler

if TYPE_CHECKING:  # a service that calls no other one does not load it
    from ..client.client import Client


class Dependencies(Handler):
    """Each client: its circuit breaker, its calls in progress, and its replicas."""

    def __init__(self, clients: "Mapping[str, Client]") -> None:
        self._clients = clients

    async def get(self) -> list[dict[str, Any]]:
        return [client.state() for client in self._clients.values()]
