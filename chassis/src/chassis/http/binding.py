"""Sockets to listen on: TCP on one or both IP families, or a Unix socket."""

import errno
import os
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import structlog
from structlog.typing import FilteringBoundLogger

from .errors import ListenError

log: FilteringBoundLogger = structlog.get_logger()

BACKLOG = 2048
ANY_IPV6 = "::"
ANY_IPV4 = "0.0.0.0"  # noqa: S104 - listened on where the setting says so
# The group of the process, such as that of a proxy on the same machine, may connect; others may not.
UNIX_SOCKET_MODE = 0o660
PROBE_SECONDS = 1.0
# The errors of a kernel without IPv6.
NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT, errno.EADDRNOTAVAIL})

MakeSocket = Callable[[int, int], socket.socket]


class Place(NamedTuple):
    """An address of the machine, and the name that resolved to it."""

    name: str
    family: int
    address: tuple[Any, ...]


def bind_tcp(host: str, port: int, make_socket: MakeSocket = socket.socket) -> list[socket.socket]:
    """Listen on `port` of every address that `host` names: addresses and names, comma separated.

    `::` is every address of both families, or every IPv4 address where the kernel has no IPv6; beside an IPv4 address
    it is IPv6 alone. IPv6 addresses may have brackets and a scope id. Port 0 is any free port, the same for all
    addresses. Raises `ListenError`, and then closes every socket.
    """
    hosts = [name.strip() for name in host.split(",") if name.strip()]
    hosts = [name[1:-1] if name.startswith("[") and name.endswith("]") else name for name in hosts]
    places = _resolve(hosts, port)
    sockets: list[socket.socket] = []
    try:
        for place in places:
            is_dual = place.name == ANY_IPV6 and len(places) == 1
            shared_port = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_bind(place, shared_port, is_dual=is_dual, make_socket=make_socket))
            except OSError as error:
                has_no_ipv6 = place.family == socket.AF_INET6 and error.errno in NO_IPV6
                if has_no_ipv6 and is_dual:
                    log.info("listening on ipv4 only", reason="this machine has no IPv6")
                    return bind_tcp(ANY_IPV4, port, make_socket)
                if has_no_ipv6 and any(other.family == socket.AF_INET for other in places):
                    continue  # `localhost` and `0.0.0.0,::` work there as well
                shown = place.name if "%" in place.name else place.address[0]  # an address has lost its scope
                raise ListenError(f"{_shown(shown, shared_port)}: {error.strerror or error}") from error
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def bind_unix(path: str) -> socket.socket:
    """Listen on a Unix socket, for the owner and the group of the process.

    The file of a process that ended without removing it is replaced. Raises `ListenError` when another process
    listens there, when the file is not a socket, or when the path cannot be used.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise ListenError(f"unix:{path}: this system has no Unix sockets; listen on a port instead")
    sock = socket.socket(socket.AF_UNIX)
    try:
        _remove_stale(path)
        # Restricts the socket before its mode is set. No other code that creates files runs yet.
        umask = os.umask(0o777 & ~UNIX_SOCKET_MODE)
        try:
            sock.bind(path)
        finally:
            os.umask(umask)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        raise ListenError(f"unix:{path}: {error.strerror or error}") from error
    sock.setblocking(False)
    return sock


def address_of(sock: socket.socket) -> str:
    """The URL of a listening socket, for people; a local address if it listens on all of them."""
    address = sock.getsockname()
    if not isinstance(address, tuple):
        return f"unix:{address}"
    host = str(address[0])
    if host == ANY_IPV4 or (host == ANY_IPV6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)):
        host = "127.0.0.1"
    elif host == ANY_IPV6:
        host = "::1"
    return f"http://{_shown(host, address[1])}"


def identity_of(path: str) -> tuple[int, int] | None:
    """Identifies the file at `path`; None without one. Another file of the same name has another identity."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _resolve(hosts: list[str], port: int) -> list[Place]:
    """Resolve the hosts; return each address once."""
    places: dict[tuple[object, ...], Place] = {}
    for name in hosts:
        try:
            infos = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else error
            raise ListenError(f"{name}: {reason}") from error
        for family, _, _, _, address in infos:
            if family in (socket.AF_INET, socket.AF_INET6):
                places.setdefault(address, Place(name, family, address))
    return list(places.values())


def _bind(place: Place, port: int, *, is_dual: bool, make_socket: MakeSocket) -> socket.socket:
    sock = make_socket(place.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if place.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if is_dual else 1)
        host, _, *scope = place.address
        sock.bind((host, port, *scope))
        sock.listen(BACKLOG)  # clients now wait in the queue and are not rejected
    except OSError:
        sock.close()
        raise
    sock.setblocking(False)
    return sock


def _shown(host: object, port: int) -> str:
    return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"


def _remove_stale(path: str) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ListenError(f"unix:{path}: the file exists and is not a socket; remove it, or choose another path")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(PROBE_SECONDS)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            with suppress(FileNotFoundError):
                os.unlink(path)
            return
        except TimeoutError:  # a process listens, and its queue is full
            pass
    raise ListenError(f"unix:{path}: another process listens there; stop it, or choose another path")
