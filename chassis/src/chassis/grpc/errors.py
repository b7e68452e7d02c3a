"""The errors of a gRPC server at its start."""


class GrpcServiceError(TypeError):
    """A service, or a method of it, is not usable. Raised at the start."""


class GrpcListenError(OSError):
    """The port cannot be opened. Raised at the start."""
