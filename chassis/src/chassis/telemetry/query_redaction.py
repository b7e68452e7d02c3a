"""Keeps secrets out of the query that spans show."""

from collections.abc import Collection
from urllib.parse import unquote_plus

REDACTED = "REDACTED"  # the semantic conventions' word

# Keys of `url.query` in the semantic conventions, and others that carry credentials or signatures.
SECRET_QUERY_KEYS = frozenset(
    {
        "access-token",
        "api-key",
        "apikey",
        "awsaccesskeyid",
        "client-secret",
        "id-token",
        "refresh-token",
        "sig",
        "signature",
        "x-amz-credential",
        "x-amz-security-token",
        "x-amz-signature",
        "x-goog-credential",
        "x-goog-signature",
    }
)


class QueryRedactor:
    """Replaces the values of secret keys; case, percent-encoding, and `_` instead of `-` make no difference."""

    def __init__(self, keys: Collection[str]) -> None:
        """`keys` are secret beside `SECRET_QUERY_KEYS`."""
        self._keys = SECRET_QUERY_KEYS | {_normal(key) for key in keys}

    def __call__(self, query: bytes) -> str:
        """The query as it was sent, without those values."""
        text = query.decode("latin-1")
        if "=" not in text:
            return text
        return "&".join([self._redact(pair) for pair in text.split("&")])

    def _redact(self, pair: str) -> str:
        key, separator, _ = pair.partition("=")
        return f"{key}={REDACTED}" if separator and _normal(unquote_plus(key)) in self._keys else pair


def _normal(key: str) -> str:
    return key.strip().lower().replace("_", "-")
