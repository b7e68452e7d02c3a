"""Events with NATS JetStream: publish and consume beside HTTP, in one process. An optional part, `[nats]`.

from chassis.nats import Consumer, NatsSettings, Publisher, add_events
"""

from importlib.util import find_spec

if find_spec("nats") is None:
    raise ImportError("chassis.nats needs nats-py, which is not installed; depend on asgi-chassis[nats]")

from .consumer import Consumer, ConsumerError
from .errors import DeadLetterError, EventRejectedError, EventsError, EventsUnavailableError
from .events import Events, add_events
from .inbox import Inbox
from .message import Message
from .publisher import Published, Publisher
from .settings import NatsSettings

__all__ = [
    "Consumer",
    "ConsumerError",
    "DeadLetterError",
    "EventRejectedError",
    "Events",
    "EventsError",
    "EventsUnavailableError",
    "Inbox",
    "Message",
    "NatsSettings",
    "Published",
    "Publisher",
    "add_events",
]
