"""Errors that applications and the process meet."""

from starlette.requests import ClientDisconnect


class ClientDisconnectedError(OSError, ClientDisconnect):
    """The application sends to a client that has disconnected (ASGI 2.4: `send` raises an `OSError`)."""


class ListenError(OSError):
    """An address cannot be bound."""
