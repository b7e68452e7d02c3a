"""The proxy that the environment names for an address."""

from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

SCHEMES = ("http", "https")


def proxy_for(scheme: str, host: str, port: int) -> str | None:
    """The URL of the proxy that `HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY` name; None for none.

    Raises `ValueError` for a proxy that is not spoken to by HTTP.
    """
    proxies = getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or proxy_bypass(f"{host}:{port}"):
        return None
    if "://" not in proxy:
        proxy = f"http://{proxy}"
    scheme = urlsplit(proxy).scheme
    if scheme not in SCHEMES:
        raise ValueError(f"a proxy of kind {scheme!r} is not supported; use one with http or https, or set NO_PROXY")
    return proxy
