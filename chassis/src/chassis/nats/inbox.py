"""`Inbox`: stores the ids of processed messages, so that a message that is delivered again is not processed again."""

from collections.abc import Hashable
from typing import Any, Protocol


class Inbox(Protocol):
    """Stores the ids of processed messages in the transaction of the consumer.

    `needs` is a provided type, such as `Queries`. Its value belongs to the same transaction as the other arguments of
    `handle`, so that the entry and the work are committed together, or neither is.
    """

    needs: Hashable

    async def add(self, provided: Any, consumer: str, message_id: str) -> bool:
        """Add a message of a consumer. False if it is there already. `provided` is the value of `needs`."""
        ...
