"""Streams and durable consumers on the server: created if they are missing, and never changed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog
from nats.aio.client import Client
from nats.js import errors as stream_errors
from nats.js.api import AckPolicy, ConsumerConfig, StreamConfig
from structlog.typing import FilteringBoundLogger

from .consumer import ConsumerError

log: FilteringBoundLogger = structlog.get_logger()

DEAD = ".dead"


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream that the service needs. `options` are those of nats-py's `StreamConfig`, for a new stream."""

    name: str
    subjects: Sequence[str]
    options: dict[str, Any] = field(default_factory=dict[str, Any])

    async def ensure(self, client: Client) -> None:
        """Create the stream if it is missing. Raises `ConsumerError` if it exists without one of the subjects."""
        manager = client.jsm()
        try:
            info = await manager.stream_info(self.name)
        except stream_errors.NotFoundError:
            # Another instance may do the same now. With the same options, the server accepts both.
            config = StreamConfig(name=self.name, subjects=list(self.subjects), **self.options)
            await manager.add_stream(config)
            log.info("stream created", stream=self.name, subjects=list(self.subjects))
            return
        existing = info.config.subjects or []
        missing = [subject for subject in self.subjects if subject not in existing]
        if missing:
            raise ConsumerError(
                f"the stream {self.name!r} exists with the subjects {', '.join(existing)}, without "
                f"{', '.join(missing)}; change it with 'nats stream edit {self.name}'"
            )


@dataclass(frozen=True, slots=True)
class Durable:
    """A durable consumer on the server, which all instances of a service share."""

    name: str
    stream: str
    subject: str
    ack_wait_seconds: float

    async def ensure(self, client: Client) -> float:
        """Create it if it is missing. Returns its `ack_wait` in seconds.

        Raises `ConsumerError` if its stream is missing, if it has another subject, or if no stream takes dead letters.
        """
        manager = client.jsm()
        dead = f"{self.subject}{DEAD}"
        try:
            await manager.stream_info(self.stream)
        except stream_errors.NotFoundError:
            raise ConsumerError(
                f"the consumer {self.name!r} needs the stream {self.stream!r}, which does not exist; "
                f"create it, or call events.ensure_stream({self.stream!r}, …) in create_app"
            ) from None
        try:
            await manager.find_stream_name_by_subject(dead)
        except stream_errors.NotFoundError:
            raise ConsumerError(
                f"no stream takes {dead}, the dead letters of the consumer {self.name!r}; "
                "add the subject to a stream, such as with events.ensure_stream"
            ) from None
        try:
            info = await manager.consumer_info(self.stream, self.name)
        except stream_errors.NotFoundError:
            config = ConsumerConfig(
                durable_name=self.name,
                filter_subject=self.subject,
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=self.ack_wait_seconds,
                # The deliveries are counted here: the server would drop the message without a dead letter.
                max_deliver=-1,
            )
            info = await manager.add_consumer(self.stream, config)
            log.info("consumer created", consumer=self.name, stream=self.stream, subject=self.subject)
        config = info.config
        if config.filter_subject != self.subject:
            raise ConsumerError(
                f"the consumer {self.name!r} of the stream {self.stream!r} exists for {config.filter_subject}, "
                f"not for {self.subject}; pass another durable name"
            )
        if config.max_deliver not in (None, -1) or config.ack_wait != self.ack_wait_seconds:
            log.warning(
                "consumer exists with other settings, which are kept",
                consumer=self.name,
                ack_wait_seconds=config.ack_wait,
                max_deliver=config.max_deliver,
            )
        return config.ack_wait or self.ack_wait_seconds
