"""A bounded cache for values that are expensive to compute and used by most requests."""

from typing import TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")

MAX_ENTRIES = 1024
MAX_ENTRY_BYTES = 500


class BoundedCache(dict[Key, Value]):
    """A dictionary of at most `max_entries`, emptied when it is full. Look up with `get`.

    Clients choose some of the keys, so the size of an entry is bounded as well: entries larger than `max_entry_bytes`
    are not cached.
    """

    __slots__ = ("max_entries", "max_entry_bytes")

    def __init__(self, max_entries: int = MAX_ENTRIES, *, max_entry_bytes: int = MAX_ENTRY_BYTES) -> None:
        super().__init__()
        self.max_entries: int = max_entries
        self.max_entry_bytes: int = max_entry_bytes

    def add(self, key: Key, value: Value, *, size_bytes: int = 0) -> Value:
        """Cache `value`, unless it is too large. Returns `value`."""
        if size_bytes <= self.max_entry_bytes:
            if len(self) >= self.max_entries:
                self.clear()
            self[key] = value
        return value
