"""Errors of credentials."""


class InvalidTokenError(Exception):
    """A token is not valid. The text is a reason for the client, without any part of the token."""


class KeysUnavailableError(Exception):
    """The keys of the issuer are not known yet, because it was not reachable since the start."""
