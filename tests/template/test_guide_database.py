"""The guides "PostgreSQL" and "SQLAlchemy", and shared rate limits, are followed to the letter, with a real server."""

import asyncio
import re
import shutil
import sys
from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import httpx
import pytest

from bakery import TEMPLATE, extend_app, render, run
from chassis.postgres.rate_limits import TABLE
from checks import check
from guides import BLOCK, write_settings_page
from running import running

GUIDES = {name: (TEMPLATE / f"chassis/docs/{name}.md").read_text() for name in ("database", "sqlalchemy")}
PYTHON = Path(sys.executable)  # has the libraries; the environment of generated services does not
SECOND = "## Use a second database"
SHARED = "\n## Share limits between instances\n"
both = pytest.mark.parametrize("project", GUIDES, indirect=True)
one = pytest.mark.parametrize("project", ["database"], indirect=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    """A server with the table of the guides."""
    spec = spec_from_file_location("postgres_support", TEMPLATE / "chassis/tests/support/postgres.py")
    assert spec is not None
    assert spec.loader is not None
    support = module_from_spec(spec)
    spec.loader.exec_module(support)
    with support.postgres_server() as server:
        for statement in re.findall(r"```sql\n(.*?)```", GUIDES["database"], re.DOTALL):
            asyncio.run(server.run(statement))
        yield server


@pytest.fixture(scope="module")
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with the code of a guide."""
    project = render(tmp_path_factory.mktemp("guide"), {"example": "none"})
    write_blocks(project, parts_of(request.param)[0])
    write_blocks(project, (TEMPLATE / "chassis/docs" / "rate-limits.md").read_text().partition(SHARED)[2])
    app = project / "src/order_service/app.py"
    app.write_text(
        re.sub(r"^    (add_database\(app, settings)\b", r"    database = \1", app.read_text(), flags=re.MULTILINE)
    )
    run(PYTHON.with_name("ruff"), "check", "--fix", "--select=I", ".", cwd=project)
    return project


@pytest.fixture(scope="module")
def project_with_replica(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same service, with the code of the section about a second database."""
    copy = Path(shutil.copytree(project, tmp_path_factory.mktemp("replica") / project.name))
    write_blocks(copy, parts_of("database")[1])
    is_sqlalchemy = "AsyncSession" in (project / "src/order_service/accounts.py").read_text()
    if is_sqlalchemy:
        write_blocks(copy, parts_of("sqlalchemy")[1])
    return copy


def parts_of(guide: str) -> tuple[str, str]:
    """A guide without the section about a second database, and this section."""
    before, _, rest = GUIDES[guide].partition(f"\n{SECOND}\n")
    section, _, after = rest.partition("\n## ")
    assert section
    return before + after, section


def write_blocks(project: Path, text: str) -> None:
    """Write each block of code into the file that its first line names."""
    package = project / "src/order_service"
    for name, block in BLOCK.findall(text):
        if name == "app.py":
            extend_app(project, block)
        elif name == "settings.py":
            (package / name).write_text(f'"""Settings."""\n\nfrom chassis import ChassisSettings\n{block}')
        else:
            (package / name).write_text(block)


@both
def test_tools_accept_the_code(project: Path) -> None:
    check(project, PYTHON, ("ruff", "check", "src"), ("ruff", "format", "--check", "src"), ("mypy", "src"))


@one
def test_settings_are_listed(project: Path) -> None:
    write_settings_page(project, PYTHON)
    page = (project / "docs/settings.md").read_text()
    assert "| `APP_DATABASE_URL` | required |" in page
    assert "| `APP_DATABASE_POOL_MAX` | `10` |" in page


@both
def test_service_transfers(project: Path, server: Any, tmp_path: Path) -> None:
    asyncio.run(
        server.run(
            "INSERT INTO accounts VALUES (1, 100), (2, 0) ON CONFLICT (id) DO UPDATE SET balance = EXCLUDED.balance"
        )
    )
    with running(PYTHON, project, tmp_path, APP_DATABASE_URL=server.url) as service:
        http: httpx.Client = service.ready().http

        def transfer(amount: int) -> int:
            return http.post("/transfers", json={"debtor": 1, "creditor": 2, "amount": amount}).status_code

        assert [transfer(30), transfer(80)] == [204, 409]
        assert [http.get(f"/accounts/{account}").json() for account in (1, 2)] == [70, 30]
        assert http.get("/accounts/3").status_code == 404
        assert http.get("/readyz").json()["checks"]["database"]["status"] == "pass"
        metrics = set(re.findall(r"^# TYPE (db_\w+)", http.get("/metrics").text, re.MULTILINE))
    named = set(re.findall(r"^\| `(db_\w+)`", (TEMPLATE / "chassis/docs/metrics.md").read_text(), re.MULTILINE))
    assert {name.removesuffix("_total") for name in named} == {name.removesuffix("_total") for name in metrics}


@both
def test_instances_share_rate_limits(project: Path, server: Any, tmp_path: Path) -> None:
    for statement in f"DROP TABLE IF EXISTS rate_limits; {TABLE}".strip().removesuffix(";").split(";"):
        asyncio.run(server.run(statement))
    variables = {"APP_DATABASE_URL": server.url, "APP_RATE_LIMIT_REQUESTS": "3"}
    with (
        running(PYTHON, project, tmp_path, **variables) as one,
        running(PYTHON, project, tmp_path, **variables) as other,
    ):
        first, second = one.ready().http, other.ready().http
        statuses = [http.get("/accounts/3").status_code for http in (first, second, first, second, first)]
    assert statuses == [404, 404, 404, 429, 429]


@both
def test_second_database_has_a_type_and_a_name_of_its_own(
    project_with_replica: Path, server: Any, tmp_path: Path
) -> None:
    tools = (("ruff", "check", "src"), ("ruff", "format", "--check", "src"), ("mypy", "src"))
    check(project_with_replica, PYTHON, *tools)
    asyncio.run(server.run("DELETE FROM accounts"))
    asyncio.run(server.run("INSERT INTO accounts VALUES (1, 5)"))
    asyncio.run(server.run("CREATE DATABASE replica TEMPLATE postgres"))
    asyncio.run(server.run("UPDATE accounts SET balance = 7"))
    replica_url = server.url.removesuffix("/postgres") + "/replica"
    variables = {"APP_DATABASE_URL": server.url, "APP_REPLICA__DATABASE_POOL_MAX": "3"}
    try:
        with running(
            PYTHON, project_with_replica, tmp_path, APP_REPLICA__DATABASE_URL=replica_url, **variables
        ) as service:
            http: httpx.Client = service.ready().http
            assert (http.get("/accounts/1").json(), http.get("/total").json()) == (7, 5)
            checks = http.get("/readyz").json()["checks"]
            assert (checks["database"]["required"], checks["replica"]["required"]) == (True, False)
            metrics = http.get("/metrics").text
    finally:
        asyncio.run(server.run("DROP DATABASE replica"))
    sizes = dict(
        re.findall(r'^db_client_connection_max\{db_client_connection_pool_name="(\w+)"\} (\S+)', metrics, re.MULTILINE)
    )
    assert sizes == {"database": "10.0", "replica": "3.0"}
    assert 'db_namespace="replica"' in metrics


@one
def test_second_database_is_the_first_one_without_settings(
    project_with_replica: Path, server: Any, tmp_path: Path
) -> None:
    asyncio.run(server.run("DELETE FROM accounts"))
    asyncio.run(server.run("INSERT INTO accounts VALUES (1, 7)"))
    with running(PYTHON, project_with_replica, tmp_path, APP_DATABASE_URL=server.url) as service:
        assert service.ready().http.get("/total").json() == 7


@one
def test_start_without_a_server_fails_with_one_line(project: Path, tmp_path: Path) -> None:
    variables = {"APP_DATABASE_URL": "postgresql://127.0.0.1:1/orders", "APP_DATABASE_CONNECT_SECONDS": "0.2"}
    with running(PYTHON, project, tmp_path, **variables) as service:
        assert service.process.wait(20) != 0
        said = "\n".join([*service.output, *service.errors])
    assert "postgresql://127.0.0.1:1/orders accepted no connection in 0.2 seconds: ConnectionRefusedError" in said
