"""`Message`: an event as a consumer gets it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

MESSAGE_ID = "Nats-Msg-Id"


@dataclass(frozen=True, slots=True)
class Message:
    """An event with its envelope. A consumer's `handle` gets it as a parameter that is annotated with this class."""

    subject: str
    data: bytes
    headers: Mapping[str, str]
    id: str
    """The publisher's id; `<stream>:<sequence>:<microseconds>` without one. It is the same in all deliveries."""
    stream: str
    sequence: int
    """The number of the event in its stream."""
    deliveries: int
    """How often it was delivered to this consumer, this time included: 1 or more."""
    stored_at: datetime
