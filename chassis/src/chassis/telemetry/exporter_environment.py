"""The environment variables of the exporter.

Follows OpenTelemetry's specification of `OTEL_EXPORTER_OTLP_*`, where the variables for traces have priority over those
for all signals, and of `OTEL_BSP_*` for batches.
"""

import re
import ssl
from collections.abc import Callable
from typing import NamedTuple
from urllib.parse import SplitResult, unquote, unquote_to_bytes, urlsplit, urlunsplit

from .collector import CollectorConnection
from .environment import MAX_NUMBER, Environment

DEFAULT_URL = "http://localhost:4318/v1/traces"
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")  # RFC 9110, section 5.6.2
CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")  # RFC 9110, section 5.5
# The exporter and its client set these. Another value would break every request.
OWN_HEADERS = frozenset({"connection", "content-encoding", "content-length", "content-type", "transfer-encoding"})


class BatchLimits(NamedTuple):
    """How spans are batched; a batch is never larger than the queue."""

    max_queued: int
    batch_size: int
    delay_milliseconds: int
    export_milliseconds: int


def names_of(option: str) -> tuple[str, str]:
    """The two variables of an option, by priority."""
    return f"OTEL_EXPORTER_OTLP_TRACES_{option}", f"OTEL_EXPORTER_OTLP_{option}"


def batch_limits(environment: Environment) -> BatchLimits:
    """`OTEL_BSP_*`."""
    max_queued = environment.whole_number("OTEL_BSP_MAX_QUEUE_SIZE", default=2048, minimum=1)
    return BatchLimits(
        max_queued,
        min(environment.whole_number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", default=512, minimum=1), max_queued),
        environment.whole_number("OTEL_BSP_SCHEDULE_DELAY", default=5000),
        environment.whole_number("OTEL_BSP_EXPORT_TIMEOUT", default=30_000) or MAX_NUMBER,
    )


def timeout_seconds(environment: Environment, limits: BatchLimits) -> float:
    """The time for a batch, from milliseconds; the specification reads 0 as no limit."""
    milliseconds = environment.whole_number(*names_of("TIMEOUT"), default=10_000) or MAX_NUMBER
    return min(milliseconds, limits.export_milliseconds) / 1000


def url(environment: Environment) -> str:
    """The URL to post to: that for traces as it is, else that for all signals and the signal's path."""
    for name in names_of("ENDPOINT"):
        given = environment.text(name)
        if not given:
            continue
        parts = _usable(given)
        if parts is None:
            environment.ignore(name, shown(given), "a URL such as http://collector:4318")
        elif name == names_of("ENDPOINT")[0]:
            return given
        else:
            path = f"{parts.path.rstrip('/')}/v1/traces"
            return urlunsplit((parts.scheme, parts.netloc, path, parts.query, ""))
    return DEFAULT_URL


def _usable(url: str) -> SplitResult | None:
    """The parts of a URL with scheme and host, as the specification asks; None for any other."""
    if any(character <= " " or character == "\x7f" for character in url):
        return None
    try:
        parts = urlsplit(url)
        return parts if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0 else None
    except ValueError:  # of the port, or of brackets
        return None


def shown(url: str) -> str:
    """A URL for a log: without credentials and query, which may hold a secret."""
    if "@" not in url and "?" not in url:
        return url
    try:
        parts = urlsplit(url)
        address = parts.netloc.rpartition("@")[2]
        return f"{parts.scheme}://{address}{parts.path}" if parts.hostname and "@" not in parts.path else "…"
    except ValueError:
        return "…"


def headers(environment: Environment) -> dict[str, bytes]:
    """`OTEL_EXPORTER_OTLP_HEADERS`, such as `api-key=a%20b`, without those that HTTP does not allow."""
    name = next((name for name in names_of("HEADERS") if environment.text(name)), "")
    fields = {}
    for number, entry in enumerate(environment.text(name).split(","), 1):
        if not entry.strip():
            continue
        encoded, separator, rest = entry.partition("=")
        header = unquote(encoded.strip()).lower()
        value = unquote_to_bytes(rest.encode("utf-8", "surrogateescape")).strip()
        # Values are never shown, and of an entry without a name anything may be a secret.
        if not separator or not TOKEN.fullmatch(header):
            environment.ignore(name, f"(entry {number})", "headers are name=value, percent-encoded")
        elif CONTROL.search(value):
            environment.ignore(name, f"{header}=…", "line breaks and other control characters are not allowed")
        elif header in OWN_HEADERS:
            environment.ignore(name, f"{header}=…", "the exporter sets this header")
        else:
            fields[header] = value
    return fields


def connector(environment: Environment, url: str, timeout_seconds: float) -> Callable[[], CollectorConnection]:
    """Connects to `url`, with the certificates that can be read; those that cannot are ignored now."""
    certificate = _path("CERTIFICATE", environment, _trusting)
    key_name, key = _first(names_of("CLIENT_KEY"), environment)
    client_certificate = _path("CLIENT_CERTIFICATE", environment, lambda path: _identify(_trusting(), path, key))
    if key and not client_certificate:
        environment.ignore(key_name, key, "it is used together with OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE only")

    def make_context() -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=certificate or None)
        if client_certificate:
            _identify(context, client_certificate, key)
        return context

    return lambda: CollectorConnection(url, timeout_seconds=timeout_seconds, make_context=make_context)


def _first(names: tuple[str, ...], environment: Environment) -> tuple[str, str]:
    return next(((name, value) for name in names if (value := environment.text(name))), ("", ""))


def _path(option: str, environment: Environment, load: Callable[[str], object]) -> str:
    """The path of a certificate that `load` can read; else empty."""
    name, path = _first(names_of(option), environment)
    if not path:
        return ""
    try:
        load(path)
    except (OSError, ValueError) as error:
        environment.ignore(name, path, getattr(error, "strerror", None) or str(error))
        return ""
    return path


def _trusting(certificate: str = "") -> ssl.SSLContext:
    """A context that trusts this certificate, or the platform's."""
    return ssl.create_default_context(cafile=certificate) if certificate else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _identify(context: ssl.SSLContext, certificate: str, key: str) -> None:
    # With an empty password, because OpenSSL would otherwise prompt for one.
    context.load_cert_chain(certificate, key or None, password="")
