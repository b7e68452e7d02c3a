"""A database that is paused, stops, crashes, fails over or is slow, while two services are under load.

One service has `database=postgres`, the other one `database=sqlalchemy`. Each has a database of its own on one server.
"""

import asyncio
import itertools
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import pytest

from bakery import render, run
from database import load_postgres_support
from running import PATIENCE_SECONDS, Service, running

PYTHON = Path(sys.executable)  # has the libraries; the environment of generated services does not
KINDS = ("postgres", "sqlalchemy")
POOL_MAX = 4
WAIT_SECONDS = 0.5
STATEMENT_SECONDS = 0.7
# A request waits for a connection, for a statement, and for a connection to release its idempotency key.
MOST_SECONDS = 2 * WAIT_SECONDS + STATEMENT_SECONDS + 2.0  # 2 s for a busy machine
BUSY_FACTOR = 3  # statements wait for the processor more often
DURABLE = "synchronous_commit=on"  # a crash loses nothing
REQUESTS_PER_SECOND = 50  # to each service
ENOUGH = 30  # responses of a phase
MOST_FAILED_CHECKS = 10  # of all tests

LINES = [{"sku": "tea", "quantity": 1}]


@dataclass
class Outcome:
    """The result of a request."""

    request: str
    began: float
    seconds: float
    status: int
    retry_after: str | None
    customer: str | None

    @property
    def needs_database(self) -> bool:
        return self.request not in ("GET /healthz", "GET /openapi.json")


@dataclass
class Load:
    """Requests at a constant rate. None waits for the response to an earlier one."""

    client: httpx.AsyncClient
    order: UUID
    outcomes: list[Outcome] = field(default_factory=list)
    readiness: list[int] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    is_finished: bool = False

    async def run(self) -> None:
        began = time.monotonic()
        for number in itertools.count():
            if self.is_finished:
                return
            self.start(self._send(number))
            if number % 10 == 0:
                self.start(self._probe())
            await asyncio.sleep(began + number / REQUESTS_PER_SECOND - time.monotonic())

    def start(self, work: Coroutine[Any, Any, None]) -> None:
        self.tasks.append(asyncio.create_task(work))

    async def finish(self) -> None:
        """Wait for the responses. Raises the error of a request that got none."""
        self.is_finished = True
        await asyncio.gather(*self.tasks)

    async def stop(self) -> None:
        """Leave nothing behind."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    async def _probe(self) -> None:
        self.readiness.append((await self.client.get("/readyz")).status_code)

    async def _send(self, number: int) -> None:
        customer = f"{self.order} {number}"
        item = f"/orders/{self.order}"
        match number % 7:
            case 0:
                await self.send("GET", "/healthz")
            case 1:
                await self.send("GET", item)
            case 2:
                await self.write(customer, key=True)
            case 3:
                await self.send("GET", "/orders?limit=2")
            case 4:
                await self.write(customer, key=False)
            case 5:  # writes nothing
                changed = {"customer": "nobody", "lines": LINES}
                await self.send("PUT", item, json=changed, headers={"if-match": '"99"'})
            case _:
                await self.send("GET", "/openapi.json")

    async def write(self, customer: str, *, key: bool) -> int:
        headers = {"idempotency-key": f'"{customer}"'} if key else {}
        body = {"customer": customer, "lines": LINES}
        return await self.send("POST", "/orders", json=body, headers=headers)

    async def send(self, method: str, path: str, **options: Any) -> int:
        began = time.monotonic()
        response = await self.client.request(method, path, **options)
        self.outcomes.append(
            Outcome(
                f"{method} {path}",
                began,
                time.monotonic() - began,
                response.status_code,
                response.headers.get("retry-after"),
                options["json"]["customer"] if "json" in options else None,
            )
        )
        return response.status_code

    def since(self, began: float) -> list[Outcome]:
        """The outcomes of requests that need the database, and that began after this time."""
        return [one for one in self.outcomes if one.needs_database and one.began >= began]

    async def failed(self, began: float) -> None:
        """Wait until requests have failed since `began`."""
        await until(lambda: sum(one.status == 503 for one in self.since(began)) >= ENOUGH)

    async def unready(self) -> None:
        await until(lambda: self.readiness[-1] == 503)

    async def recovered(self, began: float) -> None:
        """Wait until requests succeed, and the service is ready."""

        def has() -> bool:
            last = self.since(began)[-ENOUGH:]
            return len(last) == ENOUGH and all(one.status < 500 for one in last) and self.readiness[-2:] == [200, 200]

        await until(has)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not condition():
            await asyncio.sleep(0.02)


def database_of(kind: str) -> str:
    return f"orders_{kind}"


class Cluster:
    """A server, perhaps its standby, and the services that use them."""

    def __init__(self, primary: Any, standby: Any) -> None:
        """`standby` is a server that does not run yet."""
        self.primary = primary
        self.standby = standby
        self.services: dict[str, Service] = {}

    def url(self, database: str) -> str:
        """The URL of a database on whichever server is the primary."""
        hosts = ",".join(f"127.0.0.1:{server.port}" for server in (self.primary, self.standby))
        return f"postgresql://postgres@{hosts}/{database}?target_session_attrs=primary"

    def add_standby(self) -> None:
        """Copy the primary. From then on, each commit waits until the standby has it."""
        standby = self.standby
        if standby.user:
            os.chown(standby.folder, standby.user["user"], standby.user["group"])
        program = standby.programs / "pg_basebackup"
        options = ["-D", standby.data, "-R", "-c", "fast", "--no-sync"]
        done = subprocess.run(
            [program, "-d", self.primary.url, *options],
            cwd=standby.folder,
            **standby.user,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        standby.start(DURABLE)
        asyncio.run(self.primary.run("ALTER SYSTEM SET synchronous_standby_names = '*'"))
        asyncio.run(self.primary.run("SELECT pg_reload_conf()"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Both services, which are ready."""
    support = load_postgres_support()
    home = tmp_path_factory.mktemp("home")
    with ExitStack() as stack:
        folders = [stack.enter_context(support.temporary_folder()) for _ in range(2)]
        cluster = Cluster(*map(support.PostgresServer, folders))
        stack.callback(cluster.standby.stop)
        stack.callback(cluster.primary.stop)
        cluster.primary.start(DURABLE)
        for kind in KINDS:
            asyncio.run(cluster.primary.run(f"CREATE DATABASE {database_of(kind)}"))
            project = render(home / kind, {"database": kind})
            variables = {"APP_DATABASE_URL": cluster.url(database_of(kind)), "PYTHONPATH": "src"}
            migrated = run(PYTHON, "-m", "chassis.migrations", "order_service", "upgrade", cwd=project, **variables)
            assert migrated.returncode == 0, migrated.stdout
            variables |= {
                "APP_DATABASE_POOL_MAX": str(POOL_MAX),
                "APP_DATABASE_POOL_WAIT_SECONDS": str(WAIT_SECONDS),
                "APP_DATABASE_STATEMENT_SECONDS": str(STATEMENT_SECONDS),
            }
            cluster.services[kind] = stack.enter_context(running(PYTHON, project, home, **variables))
        for service in cluster.services.values():
            service.ready()
        yield cluster


@asynccontextmanager
async def load_on(cluster: Cluster) -> AsyncIterator[dict[str, Load]]:
    """Load on both services. After the block, all requests are checked."""
    async with AsyncExitStack() as stack:
        loads = {}
        for kind, service in cluster.services.items():
            client = httpx.AsyncClient(
                base_url=service.http.base_url,
                timeout=PATIENCE_SECONDS,
                trust_env=False,
                limits=httpx.Limits(max_connections=None),
            )
            await stack.enter_async_context(client)
            order = (await client.post("/orders", json={"customer": "first", "lines": LINES})).json()["id"]
            loads[kind] = load = Load(client, UUID(order))
            stack.push_async_callback(load.stop)
            load.start(load.run())
        for load in loads.values():
            await load.recovered(0.0)
        yield loads
        for kind, load in loads.items():
            await load.finish()
            print(kind, Counter((one.request.replace(str(load.order), "…"), one.status) for one in load.outcomes))
        for kind, load in loads.items():
            check_responses(load)
            await check_rows(cluster, kind, load)
            await check_connections(cluster, kind)
            check_log(cluster.services[kind])


def check_responses(load: Load) -> None:
    assert {one.status for one in load.outcomes if not one.needs_database} == {200}
    assert {one.status for one in load.outcomes} <= {200, 201, 412, 503}
    unavailable = [one for one in load.outcomes if one.status == 503]
    assert {one.retry_after for one in unavailable} == {"1"}
    # The others show how slow the machine is: they wait for nothing but the processor.
    busy_seconds = max(one.seconds for one in load.outcomes if not one.needs_database)
    assert max(one.seconds for one in load.outcomes) < MOST_SECONDS + BUSY_FACTOR * busy_seconds


async def check_rows(cluster: Cluster, kind: str, load: Load) -> None:
    """Nothing is lost, invented or written twice. A request with a key and 503 can be repeated."""
    created = set[str]()
    unknown = set[str]()
    for one in load.outcomes:
        if one.request == "POST /orders" and one.customer is not None:
            (created if one.status == 201 else unknown).add(one.customer)
    for customer in unknown:
        if int(customer.split()[1]) % 7 == 2:
            assert await load.write(customer, key=True) == 201
            created.add(customer)
    connection = await asyncpg.connect(cluster.url(database_of(kind)))
    try:
        rows = await connection.fetch("SELECT customer FROM orders WHERE starts_with(customer, $1)", f"{load.order} ")
    finally:
        await connection.close()
    stored = Counter(row["customer"] for row in rows)
    assert set(stored.values()) == {1}
    assert created <= set(stored) <= created | unknown
    assert (await load.client.get(f"/orders/{load.order}")).json()["version"] == 1  # status 412 has written nothing


async def check_connections(cluster: Cluster, kind: str) -> None:
    service = cluster.services[kind]
    used = {"db_client_connection_state": "used"}
    await until(lambda: service.metric("db_client_connection_count", **used) == 0)
    assert service.metric("db_client_connection_pending_requests") == 0
    connection = await asyncpg.connect(cluster.url(database_of(kind)))
    try:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> ''"
        assert await connection.fetchval(query) <= POOL_MAX + 1
        assert await connection.fetchval(f"{query} AND state <> 'idle'") == 0
    finally:
        await connection.close()


def check_log(service: Service) -> None:
    """Only the readiness check has a traceback, once for each time that it begins to fail."""
    found = Counter(event["event"] for event in service.events() if "exception" in event or event["level"] == "error")
    assert {*found} <= {"check changed"}
    assert found.total() <= MOST_FAILED_CHECKS
    assert [*service.errors] == []


async def all_failed(loads: dict[str, Load], began: float) -> None:
    for load in loads.values():
        await load.failed(began)
        await load.unready()


async def all_recovered(loads: dict[str, Load], ended: float) -> None:
    """Wait until the services have recovered, and print how long that took."""
    for kind, load in loads.items():
        await load.recovered(ended)
        last = max((one.began + one.seconds for one in load.since(0.0) if one.status == 503), default=ended)
        print(f"{kind}: recovered {max(0.0, last - ended):.2f} s after the end")


async def test_paused_server(cluster: Cluster) -> None:
    async with load_on(cluster) as loads:
        with cluster.primary.paused():
            began = time.monotonic()
            await all_failed(loads, began)
            await asyncio.sleep(began + 2.0 - time.monotonic())
        await all_recovered(loads, time.monotonic())


@pytest.mark.parametrize("how", ["stop", "kill"])
async def test_restarted_server(cluster: Cluster, how: str) -> None:
    async with load_on(cluster) as loads:
        began = time.monotonic()
        await asyncio.to_thread(getattr(cluster.primary, how))
        await all_failed(loads, began)
        await asyncio.to_thread(cluster.primary.start, DURABLE)
        await all_recovered(loads, time.monotonic())


async def test_locked_table(cluster: Cluster) -> None:
    """Statements take longer than the pool can serve. The services are busy, and stay ready."""
    async with load_on(cluster) as loads:
        connections = [await asyncpg.connect(cluster.url(database_of(kind))) for kind in KINDS]
        for connection in connections:
            await connection.execute("BEGIN; LOCK TABLE orders")
        began = time.monotonic()
        for load in loads.values():
            await load.failed(began)
        await asyncio.sleep(began + 2.0 - time.monotonic())
        for connection in connections:
            await connection.close()
        await all_recovered(loads, time.monotonic())
        for load in loads.values():
            assert set(load.readiness) == {200}


async def test_failover(cluster: Cluster) -> None:
    """The primary does not respond, as if its machine were gone. The standby becomes the primary."""
    await asyncio.to_thread(cluster.add_standby)
    async with load_on(cluster) as loads:
        began = time.monotonic()
        with cluster.primary.paused():
            await all_failed(loads, began)
            await cluster.standby.run("SELECT pg_promote()")
            await all_recovered(loads, time.monotonic())
            await asyncio.to_thread(cluster.primary.kill)
