"""A rolling update whose migration adds a column: old and new code run on the same tables, and no request fails."""

import random
import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from bakery import add_handler, render
from balancer import Balancer
from chassis.postgres.embedded import temporary_server
from load import clients
from running import Service, fixed_port, needs, running

PYTHON = Path(sys.executable)  # has the libraries; the environment of generated services does not
REQUESTS = 80  # between two steps
PAUSE_SECONDS = 0.02  # a client without pauses would take a processor

NOTES = '''"""Notes."""

from chassis import Handler
from chassis.postgres import Queries


class Notes(Handler):
    """All notes."""

    async def post(self, text: str, queries: Queries) -> int:
        """Write a note."""
        return await queries.fetchval({insert}, text)


class Note(Handler):
    """A note."""

    async def get(self, note: int, queries: Queries) -> str:
        """Read a note."""
        return await queries.fetchval({select}, note)
'''
OLD = {
    "insert": '"INSERT INTO notes (text) VALUES ($1) RETURNING id"',
    "select": '"SELECT text FROM notes WHERE id = $1"',
}
# Release 2 of the guide: both columns are written, and the new one is read if it has a value.
NEW = {
    "insert": '"INSERT INTO notes (text, content) VALUES ($1, $1) RETURNING id"',
    "select": '"SELECT coalesce(content, text) FROM notes WHERE id = $1"',
}
MIGRATION = '''"""Migration {number}."""

from alembic import op

revision = "{number}"
down_revision = "{before}"


def upgrade() -> None:
    """Apply this migration."""
    op.execute("{statement}")


def downgrade() -> None:
    """Nothing is reverted."""
'''


def migrate(project: Path, url: str) -> str:
    """Apply the migrations of a release, and return what it logs."""
    done = subprocess.run(
        [PYTHON, "-m", "chassis.migrations", "order_service", "upgrade"],
        cwd=project,
        env={"PYTHONPATH": "src", "APP_DATABASE_URL": url, "APP_LOG_FORMAT": "json"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def add_migration(project: Path, number: int, statement: str) -> None:
    text = MIGRATION.format(number=f"{number:04d}", before=f"{number - 1:04d}", statement=statement)
    (project / f"src/order_service/migrations/versions/{number:04d}_notes.py").write_text(text)


@pytest.fixture
def releases(tmp_path: Path) -> tuple[Path, Path]:
    """The service of the old and of the new release."""
    old = render(tmp_path / "old", {"database": "postgres", "example": "none"})
    add_migration(old, 2, "CREATE TABLE notes (id serial PRIMARY KEY, text text NOT NULL)")
    routes = 'app.add_route("/notes", Notes())\napp.add_route("/notes/{note}", Note())'
    add_handler(old, "notes", NOTES.format(**OLD), "from .notes import Note, Notes", routes)
    new = tmp_path / "new/order-service"
    shutil.copytree(old, new)
    (new / "src/order_service/notes.py").write_text(NOTES.format(**NEW))
    add_migration(new, 3, "ALTER TABLE notes ADD COLUMN content text")
    return old, new


def write(client: httpx.Client, text: str) -> int:
    """Write a note, and return its number."""
    response = client.post("/notes", params={"text": text})
    assert response.status_code == 200, response.text
    return int(response.json())


def read(client: httpx.Client, note: int) -> str:
    response = client.get(f"/notes/{note}")
    assert response.status_code == 200, response.text
    return str(response.json())


def write_and_read(client: httpx.Client) -> None:
    """Any two processes may serve these requests."""
    text = f"note {random.random()}"  # noqa: S311 - no secret
    assert read(client, write(client, text)) == text
    time.sleep(PAUSE_SECONDS)


def test_old_and_new_code_run_while_tables_are_expanded(releases: tuple[Path, Path], tmp_path: Path) -> None:
    needs("haproxy")
    old, new = releases
    ports = [fixed_port(random.Random()) for _ in range(2)]  # noqa: S311 - no secret
    with temporary_server() as server, ExitStack() as stack:

        def start(project: Path, port: int) -> Service:
            variables = {"APP_PORT": str(port), "APP_DRAIN_SECONDS": "0.6", "APP_DATABASE_URL": server.url}
            return stack.enter_context(running(PYTHON, project, tmp_path, **variables)).ready()

        migrate(old, server.url)
        services = {port: start(old, port) for port in ports}
        balancer = stack.enter_context(Balancer(tmp_path, ports, check_seconds=0.2))
        for port in ports:
            balancer.wait_for(port, "UP")
        stop = stack.enter_context(clients(4, write_and_read, balancer.url))
        responses = REQUESTS
        balancer.wait_for_answers(responses)

        assert '"revision":"0003"' in migrate(new, server.url)  # while requests flow
        responses = served(balancer) + REQUESTS
        balancer.wait_for_answers(responses)

        for port in ports:
            assert services[port].end() == 0
            balancer.wait_for(port, "DOWN")
            services[port] = start(new, port)
            balancer.wait_for(port, "UP")
            if port == ports[0]:  # one process has the old code, the other one the new
                pair = services[ports[1]].http, services[ports[0]].http
                for writer, reader in (pair, pair[::-1]):
                    assert read(reader, write(writer, "of both")) == "of both"
            balancer.wait_for_answers(served(balancer) + REQUESTS)
        assert stop() > REQUESTS  # a failure of a client is raised here
        assert {handed.status for handed in balancer.handed()} <= {200}

        # The old image is deployed again: its Job ends with success, and its code works with the new tables.
        assert "the database is ahead of this code, so nothing was done" in migrate(old, server.url)
        reverted = start(old, 0).http
        assert read(reverted, write(services[ports[0]].http, "of the new one")) == "of the new one"


def served(balancer: Balancer) -> int:
    """The number of successful responses until now."""
    return int(balancer.figures()["BACKEND"]["hrsp_2xx"])
