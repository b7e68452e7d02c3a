"""The ASGI scope of work that is not an HTTP request, for providers that need a request: a command, message or call."""

from collections.abc import Iterable

from starlette.types import Scope

from .request_info import REQUEST_INFO, RequestInfo


def scope_of_work(
    scheme: str,
    path: str,
    info: RequestInfo,
    app: object,
    *,
    headers: Iterable[tuple[bytes, bytes]] = (),
    client: str | None = None,
    http_version: str = "1.1",
) -> Scope:
    """The scope of a POST to `path`, without a body. `scheme` names the type of work, and `client` its address."""
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": http_version,
        "method": "POST",
        "scheme": scheme,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": list(headers),
        "client": None if client is None else (client, 0),
        "server": None,
        "app": app,
        "state": {},
        REQUEST_INFO: info,
    }
