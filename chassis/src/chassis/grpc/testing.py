"""For tests: a client of the gRPC server of an app."""

import grpc

from ..api.dependencies import ProviderError
from ..app import App
from .server import GrpcServer


def channel(app: App) -> grpc.aio.Channel:
    """A channel to the gRPC server of an app that has started. Close it, or use it in an `async with` statement.

        async def test_stock(app: App, client: httpx.AsyncClient) -> None:
            async with channel(app) as calls:
                response = await StockStub(calls).GetStock(StockRequest(sku="tea"))

    Set `grpc_port` to 0 in the settings of the tests, so that tests can run at the same time. Raises `ProviderError`
    if the app has no gRPC server.
    """
    provider = app.parts.providers.get(GrpcServer)
    if provider is None:
        raise ProviderError(f"{app.name} has no gRPC server; call add_grpc(app, settings) in create_app")
    server: GrpcServer = provider.make
    # A proxy of the environment is not for local calls.
    return grpc.aio.insecure_channel(f"localhost:{server.port}", options=[("grpc.enable_http_proxy", 0)])
