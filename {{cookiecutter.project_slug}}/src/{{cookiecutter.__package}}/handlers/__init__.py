"""Request handlers, one resource a module."""
