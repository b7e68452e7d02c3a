"""Connections to collectors, for tests."""

import ssl
from pathlib import Path

from chassis.telemetry.collector import CollectorConnection


def to_collector(url: str, ca_file: Path | None = None, *, timeout_seconds: float = 10.0) -> CollectorConnection:
    """A connection that trusts the certificate in `ca_file`."""
    return CollectorConnection(
        url,
        timeout_seconds=timeout_seconds,
        make_context=lambda: ssl.create_default_context(cafile=ca_file),
    )
