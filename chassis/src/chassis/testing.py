"""For the tests of a service: the application as a server on a free port, with a client."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from .app import App
from .server import Server


@asynccontextmanager
async def serve(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Run `app` on a free port of this machine, and give a client whose `base_url` is its address.

    Everything is as in production: the server, the middleware, the limits of `app.settings`. Only the drain is left
    out at the end. Use it in a fixture:

        @pytest.fixture
        async def client() -> AsyncIterator[httpx.AsyncClient]:
            async with serve(create_app(Settings.from_values())) as client:
                yield client
    """
    async with (
        Server(app, host="127.0.0.1", port=0) as server,
        # Proxies of the environment are not for this machine.
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client,
    ):
        yield client
