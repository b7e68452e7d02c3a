"""`Principal`: the user or the machine that has sent a request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Principal:
    """The client of a request, as its credentials describe it."""

    subject: str
    issuer: str
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=dict[str, Any], repr=False)
    scheme: str = "bearer"
    """`bearer` or `api_key`."""
    expires_at: float | None = None
    """The end of the credentials, in seconds since 1970; None if they do not expire."""
