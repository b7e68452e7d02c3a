"""`OutboxRelay`: delivers the messages of the outbox.

It delivers a message only if the table has no earlier one with its key. This keeps the order with several relays too,
although each skips the rows that another has locked.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from random import uniform
from time import monotonic
from typing import Any, NamedTuple

import structlog
from opentelemetry import context as otel_context
from opentelemetry.context import Context
from prometheus_client import Counter, Gauge
from structlog.typing import FilteringBoundLogger

from ..app import App
from ..delivery import Deliver, OutboundMessage, RejectedError
from ..telemetry import Telemetry
from ..telemetry.environment import extract
from .errors import ConflictError, DatabaseUnavailableError
from .outbox import Outbox
from .queries import AnyDatabase, Queries, Row

log: FilteringBoundLogger = structlog.get_logger()

# The first message of each key, if it is due. A relay that has locked it has all messages of that key.
CLAIM = """
SELECT id, key FROM outbox AS head
WHERE rejected_at IS NULL AND due_at <= now() AND NOT EXISTS (
    SELECT FROM outbox AS earlier
    WHERE earlier.key = head.key AND earlier.id < head.id AND earlier.rejected_at IS NULL
)
ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED
"""
READ = """
SELECT id, message_id::text, subject, key, payload, headers::text, created_at, failures, rejections FROM outbox
WHERE rejected_at IS NULL AND (id = ANY($1::bigint[]) OR key = ANY($2::text[]))
ORDER BY id LIMIT $3
"""
DELETE = "DELETE FROM outbox WHERE id = ANY($1::bigint[])"
POSTPONE = """
UPDATE outbox SET failures = failures + 1, rejections = $2, error = $3,
    due_at = clock_timestamp() + $4::float8 * interval '1 second'
WHERE id = $1
"""
REJECT = "UPDATE outbox SET rejections = $2, error = $3, rejected_at = clock_timestamp() WHERE id = $1"
MEASURE = """
SELECT count(*) FILTER (WHERE rejected_at IS NULL), count(*) FILTER (WHERE rejected_at IS NOT NULL),
    coalesce(extract(epoch FROM clock_timestamp() - min(created_at) FILTER (WHERE rejected_at IS NULL)), 0)::float8
FROM outbox
"""

# A destination that takes its time must not end the transaction, or its messages would be delivered again and again.
MAY_BE_IDLE = "SET LOCAL idle_in_transaction_session_timeout = 0"
# The trace context of a message is that of the request; a delivery has its own, below it.
CONTEXT_HEADERS = ("traceparent", "tracestate", "baggage")
NO_CONTEXT = Context()
FIRST_DELAY_SECONDS = 0.01
FIRST_BACKOFF_SECONDS = 0.5
MAX_BACKOFF_SECONDS = 60.0
MEASURE_SECONDS = 10.0
FINISH_SECONDS = 10.0  # for a batch when the service stops; the server ends the process if there is less time
MAX_ERROR = 1000  # characters


def add_outbox(
    app: App,
    database: AnyDatabase,
    deliver: Deliver,
    *,
    batch_size: int = 100,
    max_concurrent: int = 10,
    max_rejections: int = 5,
    poll_seconds: float = 1.0,
) -> "OutboxRelay":
    """Provide `Outbox` to handlers and consumers, and deliver its messages in the background; see `OutboxRelay`.

    `deliver` is a destination, such as `events.publisher.deliver` or an `HttpDestination`.
    """
    relay = OutboxRelay(
        database,
        deliver,
        telemetry=app.telemetry,
        batch_size=batch_size,
        max_concurrent=max_concurrent,
        max_rejections=max_rejections,
        poll_seconds=poll_seconds,
    )
    app.provide(Outbox, relay.outbox)
    app.add_background_task("outbox relay", relay.run)
    return relay


class OutboxMetrics:
    """The state of the table, and what the relay of this process has done."""

    def __init__(self, telemetry: Telemetry) -> None:
        registry = telemetry.metrics.registry
        self.messages: Gauge = Gauge(
            "outbox_messages", "Messages in the outbox, pending or rejected.", ["state"], registry=registry
        )
        self.oldest_age: Gauge = Gauge(
            "outbox_oldest_message_age_seconds", "Age of the oldest pending message.", registry=registry
        )
        self.delivered: Counter = Counter("outbox_delivered", "Messages that were delivered.", registry=registry)
        self.failures: Counter = Counter("outbox_delivery_failures", "Deliveries that failed.", registry=registry)
        self.rejected: Counter = Counter(
            "outbox_rejected", "Messages that were set aside because they were rejected.", registry=registry
        )


class OutboxRelay:
    """Delivers the messages of the outbox, in the order of their keys. Several instances share the work.

    A batch is delivered in one transaction that holds locks on its messages, and is then deleted. If the process dies,
    the locks end, and another instance delivers these messages, some of them again.

    A message that fails is delivered again after a growing, random delay, for ever; later messages with its key wait.
    A message that was rejected `max_rejections` times is set aside: it stays in the table with `rejected_at` and
    `error`, is counted, and no longer holds up its key. To deliver it again, set `rejected_at` to NULL.
    """

    def __init__(
        self,
        database: AnyDatabase,
        deliver: Deliver,
        *,
        telemetry: Telemetry,
        batch_size: int = 100,
        max_concurrent: int = 10,
        max_rejections: int = 5,
        poll_seconds: float = 1.0,
    ) -> None:
        """`poll_seconds` is the time between two looks at an empty table. A message of this process is found sooner."""
        if min(batch_size, max_concurrent, max_rejections) < 1 or poll_seconds <= 0:
            raise ValueError("batch_size, max_concurrent and max_rejections must be 1 or more, poll_seconds above 0")
        self._database = database
        self._deliver = deliver
        self._metrics = OutboxMetrics(telemetry)
        self._batch_size = batch_size
        self._max_concurrent = max_concurrent
        self._max_rejections = max_rejections
        self._poll_seconds = poll_seconds
        self._added = asyncio.Event()
        self._measured_at = -MEASURE_SECONDS

    def outbox(self, queries: Queries) -> Outbox:
        """The provider of `Outbox`."""
        return Outbox(queries, self._added)

    async def run(self) -> None:
        """Deliver messages until it is cancelled. Then it finishes the batch in hand."""
        delay = FIRST_DELAY_SECONDS
        fruitless = 0
        while True:
            self._added.clear()
            progress = await self._finished()
            if progress.delivered:
                delay = FIRST_DELAY_SECONDS
                fruitless = 0
            elif progress.failed:
                # The destination or the database is down. New messages do not change that.
                fruitless += 1
                await asyncio.sleep(backoff(fruitless))
            else:
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await self._added.wait()
                # A message is added before its commit, so the next looks follow soon.
                delay = FIRST_DELAY_SECONDS if self._added.is_set() else min(delay * 2, self._poll_seconds)

    async def _finished(self) -> "Progress":
        """Deliver a batch. If the service stops meanwhile, it is finished first."""
        task = asyncio.create_task(self._relay(), name="batch of the outbox")
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task}, timeout=FINISH_SECONDS)
            if task.done() and not task.cancelled() and (error := task.exception()) is not None:
                log.warning("outbox not relayed", reason=f"{type(error).__qualname__}: {error}")
            task.cancel()
            raise

    async def _relay(self) -> "Progress":
        batch = Batch(self._deliver, self._metrics, self._max_concurrent, self._max_rejections)
        try:
            async with self._database.transaction() as queries:
                heads = await queries.fetch(CLAIM, self._batch_size)
                if heads:
                    await queries.execute(MAY_BE_IDLE)
                    keys = [head["key"] for head in heads if head["key"] is not None]
                    ids = [head["id"] for head in heads]
                    await batch.deliver(await queries.fetch(READ, ids, keys, self._batch_size))
                    await batch.note(queries)
            if monotonic() - self._measured_at >= MEASURE_SECONDS:
                self._measured_at = monotonic()
                await self._measure()
        except (DatabaseUnavailableError, ConflictError) as error:
            log.warning("outbox not relayed", reason=f"{type(error).__qualname__}: {error}")
            return Progress(0, 1)
        self._metrics.delivered.inc(batch.delivered)
        return Progress(batch.delivered, batch.failed)

    async def _measure(self) -> None:
        row = await self._database.queries.fetchrow(MEASURE)
        if row is not None:
            self._metrics.messages.labels("pending").set(row[0])
            self._metrics.messages.labels("rejected").set(row[1])
            self._metrics.oldest_age.set(row[2])


class Progress(NamedTuple):
    """The numbers of messages of a batch."""

    delivered: int
    failed: int


class Batch:
    """The deliveries of one transaction."""

    def __init__(self, deliver: Deliver, metrics: OutboxMetrics, max_concurrent: int, max_rejections: int) -> None:
        self.failed: int = 0
        self._deliver = deliver
        self._metrics = metrics
        self._max_concurrent = max_concurrent
        self._max_rejections = max_rejections
        self._turns = asyncio.Semaphore(max_concurrent)
        self._delivered: list[int] = []
        self._failures: list[tuple[Row, Exception]] = []

    @property
    def delivered(self) -> int:
        """The number of messages that were delivered."""
        return len(self._delivered)

    async def deliver(self, rows: Iterable[Row]) -> None:
        """Deliver messages: those of one key one after the other, until one fails."""
        by_key = defaultdict[object, list[Row]](list)
        for row in rows:
            by_key[row["id"] if row["key"] is None else row["key"]].append(row)
        async with asyncio.TaskGroup() as group:
            for queue in by_key.values():
                group.create_task(self._deliver_in_order(queue))

    async def _deliver_in_order(self, rows: Sequence[Row]) -> None:
        async with self._turns:
            for row in rows:
                if self.failed >= self._max_concurrent and not self._delivered:
                    return  # the destination is down; the others need not wait for it
                try:
                    await self._deliver_one(row)
                except Exception as error:  # noqa: BLE001 - of the destination
                    self.failed += 1
                    self._failures.append((row, error))
                    return
                self._delivered.append(row["id"])

    async def _deliver_one(self, row: Row) -> None:
        headers: dict[str, str] = json.loads(row["headers"])
        context = extract(headers, NO_CONTEXT)
        for name in CONTEXT_HEADERS:
            headers.pop(name, None)
        message = OutboundMessage(
            row["message_id"], row["subject"], row["key"], row["payload"], headers, row["created_at"]
        )
        token = otel_context.attach(context)
        try:
            await self._deliver(message)
        finally:
            otel_context.detach(token)

    async def note(self, queries: Queries) -> None:
        """Delete what was delivered, and postpone or set aside what has failed."""
        if self._delivered:
            await queries.execute(DELETE, self._delivered)
        for row, error in self._failures:
            is_rejected = isinstance(error, RejectedError)
            rejections = row["rejections"] + is_rejected
            reason = f"{type(error).__qualname__}: {error}"[:MAX_ERROR].replace("\0", "")
            facts: dict[str, Any] = {"message_id": row["message_id"], "subject": row["subject"], "reason": reason}
            self._metrics.failures.inc()
            if is_rejected and rejections >= self._max_rejections:
                await queries.execute(REJECT, row["id"], rejections, reason)
                self._metrics.rejected.inc()
                log.error("outbox message is set aside", **facts)
            else:
                seconds = backoff(row["failures"] + 1)
                await queries.execute(POSTPONE, row["id"], rejections, reason, seconds)
                log.warning("outbox message not delivered", seconds=round(seconds, 3), **facts)


def backoff(failures: int) -> float:
    """The delay after so many failures, in seconds: it doubles, less up to half of it at random."""
    return min(FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 16), MAX_BACKOFF_SECONDS) * uniform(0.5, 1.0)  # noqa: S311
