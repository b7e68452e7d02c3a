"""Outbound HTTP: clients for the other services that a service calls.

    catalogue = app.client("catalogue", base_url="http://catalogue")

Names are imported on first use, so that a service that calls no other service loads none of them.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .client import Client
    from .errors import (
        BadResponseError,
        DependencyError,
        DependencyTimeoutError,
        DependencyUnavailableError,
    )
    from .httpx_client import http_client
    from .response import Response, UnexpectedStatusError
    from .settings import ClientSettings

_MODULES = {
    "BadResponseError": "errors",
    "Client": "client",
    "ClientSettings": "settings",
    "DependencyError": "errors",
    "DependencyTimeoutError": "errors",
    "DependencyUnavailableError": "errors",
    "Response": "response",
    "UnexpectedStatusError": "response",
    "http_client": "httpx_client",
}

__all__ = [
    "BadResponseError",
    "Client",
    "ClientSettings",
    "DependencyError",
    "DependencyTimeoutError",
    "DependencyUnavailableError",
    "Response",
    "UnexpectedStatusError",
    "http_client",
]


def __getattr__(name: str) -> object:
    """Import a public name on its first use."""
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f".{module}", __name__), name)
    globals()[name] = value
    return value
