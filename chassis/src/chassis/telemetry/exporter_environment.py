"""The environment variables of the exporter.

Follows OpenTelemetry's specification of `OTEL_EXPORTER_OTLP_*`, where the variables for traces have priority over those
for all signals, and of `OTEL_BSP_*` for batches.
"""

import os
import ssl
from typing import TYPE_CHECKING
from urllib.parse import unquote

if TYPE_CHECKING:
    import httpx


def make_client(certificate: str, client_certificate: str, client_key: str, timeout_seconds: float) -> "httpx.Client":
    """A client with these certificates (paths, or empty)."""
    import httpx

    verify = ssl.create_default_context(cafile=certificate) if certificate else httpx.create_ssl_context()
    if client_certificate:
        verify.load_cert_chain(client_certificate, client_key or None)
    return httpx.Client(verify=verify, timeout=timeout_seconds)


def variable(name: str) -> str:
    """`OTEL_EXPORTER_OTLP_TRACES_<name>`, else `OTEL_EXPORTER_OTLP_<name>`, else empty."""
    specific = os.environ.get(f"OTEL_EXPORTER_OTLP_TRACES_{name}", "").strip()
    return specific or os.environ.get(f"OTEL_EXPORTER_OTLP_{name}", "").strip()


def url() -> str:
    """The URL to post to."""
    # The URL for traces is used as it is; the signal's path is added to the one for all signals.
    specific = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "").strip()
    general = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT", "").strip() or "http://localhost:4318"
    return specific or f"{general.rstrip('/')}/v1/traces"


def parse_header(pair: str) -> tuple[str, str]:
    """A header of `OTEL_EXPORTER_OTLP_HEADERS`, such as `api-key=a%20b`."""
    name, _, value = pair.partition("=")
    return name.strip().lower(), unquote(value.strip())


def whole_number(name: str, default: int) -> int:
    """The value of a variable; raises `ValueError` unless it is a whole number above 0."""
    value = os.environ.get(name, "").strip()
    if not value:
        return default
    if not value.isdigit() or int(value) < 1:
        raise ValueError(f"{name}={value!r}: a whole number above 0, such as {default}")
    return int(value)
