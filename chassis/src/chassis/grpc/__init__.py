"""gRPC beside HTTP: services of `grpc.aio` on a port of their own, in one process. An optional part, `[grpc]`.

from chassis.grpc import GrpcSettings, add_grpc
"""

from importlib.util import find_spec

if find_spec("grpc") is None or find_spec("grpc_health") is None:
    raise ImportError(
        "chassis.grpc needs grpcio and grpcio-health-checking, and one of them is not installed; "
        "depend on asgi-chassis[grpc]"
    )

from .errors import GrpcListenError, GrpcServiceError
from .server import GrpcServer, add_grpc
from .settings import GrpcSettings

__all__ = [
    "GrpcListenError",
    "GrpcServer",
    "GrpcServiceError",
    "GrpcSettings",
    "add_grpc",
]
