"""Addresses of clients and proxies, each in one notation."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

MAPPED_PREFIX = "::ffff:"
MAPPED_BITS = 96


def plain_host(host: str) -> str:
    """The address of an IPv4 client on a dual-stack socket: `192.0.2.1`, not `::ffff:192.0.2.1`."""
    return host[len(MAPPED_PREFIX) :] if host.startswith(MAPPED_PREFIX) and "." in host else host


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An address as `Forwarded` fields have it: with or without brackets and port; None for anything else."""
    host = text.strip().strip('"')
    if host.startswith("["):
        host = host[1:].partition("]")[0]
    elif host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        address = ip_address(host)
    except ValueError:
        return None
    return address.ipv4_mapped or address if isinstance(address, IPv6Address) else address


def parse_network(text: str) -> IPv4Network | IPv6Network:
    """A network or a single address, with or without brackets; raises `ValueError` for anything else.

    Bits beyond the prefix are ignored: `10.0.0.1/8` is `10.0.0.0/8`.
    """
    network = ip_network(text.strip().replace("[", "").replace("]", ""), strict=False)
    if isinstance(network, IPv6Network) and network.prefixlen >= MAPPED_BITS:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return ip_network((mapped, network.prefixlen - MAPPED_BITS))
    return network
