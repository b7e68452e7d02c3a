"""The error of the embedded server, in one line."""

ALTERNATIVE = "or set APP_DATABASE_URL to the database of another server"
"""The next step in a message, besides the one that helps here."""


class EmbeddedServerError(Exception):
    """The server cannot run here. The text is one line that says why, and what to do."""
