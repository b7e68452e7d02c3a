"""Errors in the signature of a handler's method. Raised at the start."""


class SignatureError(TypeError):
    """A method of a handler has an unsupported signature. Raised when its route is added."""


class UnprovidedError(SignatureError):
    """A parameter has a type that cannot be read from a request. The application may still provide it."""
