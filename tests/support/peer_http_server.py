"""A plugin for CPython's own tests of `http.server`: their handlers run in our server, as routes do."""

import threading
from http.client import HTTPResponse
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest
from anyio.from_thread import start_blocking_portal

from chassis.http_server import HttpServerApp
from peer_servers import serving

SECONDS = 20.0


class ServerThread(threading.Thread):
    """Stands for `TestServerThread` of these tests."""

    def __init__(self, test: Any, handler: type[BaseHTTPRequestHandler], *_: object) -> None:
        super().__init__()
        self._test = test
        self._handler = handler
        self._stops = threading.Event()

    def run(self) -> None:
        """Serve until `stop`."""
        app = HttpServerApp(self._handler)
        with (
            start_blocking_portal("asyncio", {"use_uvloop": True}) as portal,
            portal.wrap_async_context_manager(serving("protocol", app)) as port,
        ):
            self._test.HOST, self._test.PORT = "127.0.0.1", port
            self._test.server_started.set()
            self._stops.wait()

    def stop(self) -> None:
        """Stop serving."""
        self._stops.set()
        self.join(SECONDS)


def check_status_and_reason(_: object, response: HTTPResponse, status: int, data: bytes | None = None) -> bytes:
    """As in the tests, but for the version and the connection: our server speaks HTTP/1.1, and keeps connections."""
    body = response.read()
    assert response.status == status
    assert response.reason is not None
    if data:
        assert body == data
    return body


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put our server in place of that of the tests."""
    for module in {item.module for item in items if isinstance(item, pytest.Function)}:
        module.TestServerThread = ServerThread
        module.SimpleHTTPServerTestCase.check_status_and_reason = check_status_and_reason
