"""Errors of credentials."""

from ..unavailable import UnavailableError


class InvalidTokenError(Exception):
    """A token is not valid. The text is a reason for the client, without any part of the token."""


class KeysUnavailableError(UnavailableError):
    """The keys of the issuer are not known, because it was not reachable."""
