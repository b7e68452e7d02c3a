"""Keeps secrets out of the query that spans show."""

from collections.abc import Callable
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

    def __init__(self, is_secret: Callable[[str], bool]) -> None:
        """`is_secret` selects keys that are secret in addition to `SECRET_QUERY_KEYS`."""
        self._is_secret = is_secret

    def __call__(self, query: bytes) -> str:
        """The query as it was sent, without those values."""
        text = query.decode("latin-1")
        if "=" not in text:
            return text
        return "&".join([self._redact(pair) for pair in text.split("&")])

    def _redact(self, pair: str) -> str:
        key, separator, _ = pair.partition("=")
        if not separator:
            return pair
        name = unquote_plus(key).strip()
        is_secret = name.lower().replace("_", "-") in SECRET_QUERY_KEYS or self._is_secret(name)
        return f"{key}={REDACTED}" if is_secret else pair
