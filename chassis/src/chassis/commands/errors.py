"""Errors of the command line."""


class UsageError(Exception):
    """The command or its arguments are wrong. The message is one line for the person at the terminal."""
