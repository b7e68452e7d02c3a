"""`ApiKeys`: credentials of machines."""

from pathlib import Path

from .principal import Principal


class ApiKeys:
    """The keys of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def principal_of(self, key: str) -> Principal | None:
        """The principal of a key; None for an unknown key."""
        return None
