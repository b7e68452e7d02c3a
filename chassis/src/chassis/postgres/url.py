"""Checks the URL of a database. No error has a part of the URL, because any part may be a piece of the password."""

import re
from urllib.parse import parse_qs, urlsplit

# The last one is the spelling of SQLAlchemy.
SCHEMES = ("postgresql", "postgres", "postgresql+asyncpg")
HINT = "encode / # ? @ [ ] in the password, or use the setting database_password"
CHOICES = {
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "target_session_attrs": ("any", "primary", "standby", "read-write", "read-only", "prefer-standby"),
}
# asyncpg would send these parameters of libpq to the server, which does not know them.
ONLY_LIBPQ = (
    "channel_binding",
    "connect_timeout",
    "fallback_application_name",
    "gssdelegation",
    "gssencmode",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "require_auth",
    "requirepeer",
    "sslcompression",
    "sslsni",
)
HOST = re.compile(r"(?P<name>\[[^\[\]]+\]|[^:\[\]]*)(?::(?P<port>[^:]*))?")
LARGEST_PORT = 65_535


def check_url(url: str) -> None:
    """Raises `ValueError` for a URL that is not one of PostgreSQL, or that can be read in two ways."""
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ValueError(f"is not a URL; {HINT}") from None
    if parts.scheme not in SCHEMES:
        raise ValueError("must begin with postgresql://, such as postgresql://user@host:5432/name")
    if parts.netloc.count("@") > 1 or "@" in parts.path + parts.query or parts.fragment:
        raise ValueError(f"has an @ or # that is not encoded; {HINT}")
    hosts = parts.netloc.rpartition("@")[2]
    if hosts:
        _check_hosts(hosts)
    _check_query(parts.query)


def _check_hosts(hosts: str) -> None:
    for text in hosts.split(","):
        host = HOST.fullmatch(text)
        if host is None:
            raise ValueError(f"has a host that is not valid; write an IPv6 address in brackets, and {HINT}")
        if host["port"] is not None:
            _check_port(host["port"])
        if not host["name"]:
            raise ValueError("has no host; write postgresql://user@host:5432/name")


def _check_port(port: str) -> None:
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 1 <= int(port) <= LARGEST_PORT):
        raise ValueError(f"the port is not a number from 1 to {LARGEST_PORT}; {HINT}")


def _check_query(text: str) -> None:
    try:
        query = parse_qs(text, strict_parsing=True) if text else {}
    except ValueError:
        raise ValueError(f"has parameters that are not written as ?name=value&name=value; {HINT}") from None
    for name, allowed in CHOICES.items():
        if not {*query.get(name, ())} <= {*allowed}:
            raise ValueError(f"the value of {name} is not known; use one of {', '.join(allowed)}")
    for ports in query.get("port", ()):
        for port in ports.split(","):
            _check_port(port)
    unknown = [name for name in ONLY_LIBPQ if name in query]
    if unknown:
        raise ValueError(f"the parameter {unknown[0]} is not supported; remove it")


def without_password(url: str) -> str:
    """The URL without its password: the server, the user and the database."""
    netloc = urlsplit(url).netloc
    user, at, hosts = netloc.rpartition("@")
    return url.replace(netloc, user.partition(":")[0] + at + hosts, 1)
