"""The guides "Events" and "Outbox" are followed to the letter, with real servers."""

import asyncio
import re
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from queue import Queue
from typing import Any

import asyncpg
import httpx
import pytest

from bakery import TEMPLATE, extend_app, render, run
from chassis.nats import embedded as nats_embedded
from chassis.postgres import embedded as postgres_embedded
from chassis.postgres.outbox import TABLE
from checks import check
from guides import BLOCK
from running import PATIENCE_SECONDS, running

DOCS = TEMPLATE / "chassis/docs"
PYTHON = Path(sys.executable)  # has nats-py and asyncpg; the environment of generated services does not


def follow(project: Path, guide: str) -> Path:
    """A service with the code of a guide."""
    package = project / "src/order_service"
    for name, block in BLOCK.findall(guide):
        if name == "app.py":
            extend_app(project, block)
        elif name == "settings.py":
            (package / name).write_text(f'"""Settings."""\n\nfrom chassis import ChassisSettings\n{block}')
        else:
            (project / name if name.startswith("tests/") else package / name).write_text(block)
    run(PYTHON.with_name("ruff"), "check", "--fix", "--select=I", "src", cwd=project)  # the order of imports alone
    check(project, PYTHON, ("ruff", "check", "src"), ("ruff", "format", "--check", "src"), ("mypy", "src"))
    return project


def documented(prefix: str) -> set[str]:
    """The metrics in the first column of the tables of the guide "metrics.md"."""
    cells = re.findall(r"^\| (.*?) \|", (DOCS / "metrics.md").read_text(), re.MULTILINE)
    return {name.removesuffix("_total") for cell in cells for name in re.findall(rf"`({prefix}_\w+)`", cell)}


def exposed(http: httpx.Client, prefix: str) -> set[str]:
    """The metrics of a service."""
    found = re.findall(rf"^# TYPE ({prefix}_\w+)", http.get("/metrics").text, re.MULTILINE)
    return {name.removesuffix("_total") for name in found if not name.endswith("_created")}


def test_guide_of_events_works(tmp_path: Path) -> None:
    project = follow(render(tmp_path / "guide", {"example": "none"}), (DOCS / "events.md").read_text())
    with (
        nats_embedded.temporary_server() as server,
        running(PYTHON, project, tmp_path, APP_NATS_URL=server.url) as service,
    ):
        http: httpx.Client = service.ready().http
        assert [http.post("/payments", json={"account": 1, "cents": cents}).status_code for cents in (5, 0)] == [
            202,
            202,
        ]
        lines = service.wait("message", 2, {})
        assert {line["outcome"] for line in lines} == {"acknowledged", "dead"}
        assert service.event("payment booked")["cents"] == 5
        assert http.get("/readyz").json()["checks"]["events"]["status"] == "pass"
        assert exposed(http, "messaging") == documented("messaging")
    tests = ("-q", "-p", "chassis.nats.pytest_plugin", "tests/test_payments.py")
    done = run(PYTHON, "-m", "pytest", *tests, cwd=project, PYTHONPATH="src")
    assert "2 passed" in done.stdout, done.stdout


class Warehouse(BaseHTTPRequestHandler):
    """Takes messages."""

    def do_POST(self) -> None:
        """Keep a message."""
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.messages.put((self.headers["ce-type"], body))  # type: ignore[attr-defined]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def warehouse() -> Iterator[Any]:
    """An endpoint, with its `messages`."""
    server: Any = HTTPServer(("127.0.0.1", 0), Warehouse)
    server.messages = Queue()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_guide_of_the_outbox_works(tmp_path: Path, warehouse: Any) -> None:
    guide = (DOCS / "outbox.md").read_text()
    project = follow(render(tmp_path / "guide", {"example": "none"}), guide)
    tables = TABLE + "".join(re.findall(r"```sql\n(.*?)```", guide, re.DOTALL))
    with postgres_embedded.temporary_server() as server:
        asyncio.run(execute(server.url, tables))
        variables = {"APP_DATABASE_URL": server.url, "APP_WAREHOUSE_URL": f"http://127.0.0.1:{warehouse.server_port}/"}
        with running(PYTHON, project, tmp_path, **variables) as service:
            http: httpx.Client = service.ready().http
            shipment = {"order_id": 1, "address": "London"}
            assert [http.post("/shipments", json=shipment).status_code for _ in range(2)] == [201, 500]
            message = warehouse.messages.get(timeout=PATIENCE_SECONDS)
            assert exposed(http, "outbox") == documented("outbox")
    assert message == ("shipments.created", b'{"order_id":1,"address":"London"}')
    assert warehouse.messages.empty()


async def execute(url: str, statements: str) -> None:
    """Execute statements in a database."""
    connection = await asyncpg.connect(url)
    await connection.execute(statements)
    await connection.close()
