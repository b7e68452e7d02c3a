"""What is wrong with a handler's method. Raised at the start."""


class SignatureError(TypeError):
    """A method of a handler cannot be bound as it is written. Raised when its route is added."""


class UnprovidedError(SignatureError):
    """A parameter is of a type that comes from no request, but an application may provide it."""
