"""A process that stores orders with a message each, and relays messages: `python -m tests.support.outbox_program`.

Arguments: the URL of the database, and that of the destination, an HTTP endpoint or a NATS server.
"""

import asyncio
import random
import sys
from typing import Any
from uuid import uuid4

import orjson

from chassis import App, ChassisSettings
from chassis.client import http_client
from chassis.delivery import Deliver, HttpDestination
from chassis.nats import NatsSettings, add_events
from chassis.postgres import Database, DatabaseSettings, Outbox, add_database, add_outbox
from chassis.testing import connect

KEYS = 5
WRITERS = 3
TABLES = """
DROP TABLE IF EXISTS written, counters;
CREATE TABLE counters (key text PRIMARY KEY, number int NOT NULL);
CREATE TABLE written (id uuid PRIMARY KEY, key text NOT NULL, number int NOT NULL);
"""


def make(database_url: str, destination_url: str) -> tuple[App, Database]:
    """An application that relays to the destination."""
    app = App(ChassisSettings.from_values(log_level="warning"), name="orders")
    database = add_database(app, DatabaseSettings.model_validate({"database_url": database_url}))
    deliver: Deliver
    if destination_url.startswith("nats:"):
        events = add_events(app, NatsSettings.model_validate({"nats_url": destination_url}))
        events.ensure_stream("orders", ["orders.>"])
        deliver = events.publisher.deliver
    else:
        deliver = HttpDestination(app.add_resource(http_client()), destination_url, source="orders")
    add_outbox(app, database, deliver, batch_size=20, poll_seconds=0.05)
    return app, database


async def write(database: Database) -> None:
    """Store orders for ever. Some transactions are rolled back."""
    while True:
        key = f"key-{random.randrange(KEYS)}"  # noqa: S311 - no secret
        order_id = uuid4()
        try:
            async with database.transaction() as queries:
                number = await queries.fetchval(
                    "INSERT INTO counters VALUES ($1, 1) ON CONFLICT (key) DO UPDATE SET number = counters.number + 1 "
                    "RETURNING number",
                    key,
                )
                content: dict[str, Any] = {"id": str(order_id), "key": key, "number": number}
                await Outbox(queries).add("orders.created", orjson.dumps(content), key=key)
                await queries.execute("INSERT INTO written VALUES ($1, $2, $3)", order_id, key, number)
                if random.random() < 0.2:  # noqa: S311
                    raise ValueError("rolled back")
        except ValueError:
            continue
        await asyncio.sleep(0.03)


async def main(database_url: str, destination_url: str) -> None:
    app, database = make(database_url, destination_url)
    async with connect(app):
        print("ready", flush=True)
        await asyncio.gather(*(write(database) for _ in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
