"""`Inbox`: remembers the messages that were processed, so that a message that is delivered again is not."""

from collections.abc import Hashable
from typing import Any, Protocol


class Inbox(Protocol):
    """Remembers processed messages in the transaction of the consumer.

    `needs` is a provided type, such as `Queries`. Its value belongs to the same transaction as the other arguments of
    `handle`, so that the entry and the work are committed together, or neither is.
    """

    needs: Hashable

    async def add(self, provided: Any, consumer: str, message_id: str) -> bool:
        """Remember a message of a consumer. False if it was remembered already. `provided` is the value of `needs`."""
        ...
