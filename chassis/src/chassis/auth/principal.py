"""`Principal`: the user or the machine that has sent a request."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Principal:
    """The client of a request, as its credentials describe it.

    Requests with the same token share one principal, so its claims cannot be changed: lists are tuples.
    """

    subject: str
    issuer: str
    scopes: frozenset[str] = frozenset()
    roles: frozenset[str] = frozenset()
    claims: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType[str, Any]({}), repr=False)
    """All claims of the token. `repr` does not show them, because they may be personal."""
    scheme: Literal["bearer", "api_key"] = "bearer"
    expires_at: float | None = None
    """The end of the credentials, in seconds since 1970; None if they do not expire."""

    def __hash__(self) -> int:
        return hash((self.scheme, self.issuer, self.subject))
