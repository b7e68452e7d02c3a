"""A service of the first edition, whose core was a package inside its own, arrives at the present layout.

The service is generated from the files of that commit of this repository, and its owner works on it. Its own script of
that time updates it to the working tree. The remaining steps are those of CHANGELOG.md.
"""

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from bakery import NOTE, TEMPLATE, copy_folder, own_config, run
from repositories import IDENTITY, Repository
from running import running

pytestmark = pytest.mark.long

# The value `kubernetes` of that time has another name now.
UPDATE = "make update SET=deploy=kustomize"
FIRST_EDITION = "fa436fee094eea99c81102ee015f971ddde3380a"
LAST_SETTING = "| `APP_MAX_ORDERS` | `10000` | Orders that the store holds before it is full. |\n"
PARAGRAPH = "Call Ada before you touch it.\n"
OWN_TEST = '''"""Money."""

import pytest

from order_service.chassis import Problem
from order_service.money import cents


def test_cents_are_counted() -> None:
    assert cents("1.50") == 150


def test_other_text_is_a_problem() -> None:
    with pytest.raises(Problem):
        cents("much")
'''
OWN_MODULE = '''"""Money."""

from . import chassis


def cents(text: str) -> int:
    """Read an amount such as 1.50."""
    whole, _, rest = text.partition(".")
    if not (whole + rest).isdigit():
        raise chassis.Problem(422, "That is no amount.")
    return int(whole) * 100 + int(rest or 0)
'''


@pytest.fixture(scope="module")
def first_day(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The first edition of this repository, and a service as its owner committed it that day.

    The template has no older history, because each update clones it several times.
    """
    if run("git", "rev-parse", "--is-shallow-repository", cwd=TEMPLATE).stdout.strip() == "true":
        pytest.skip(f"this clone has no commit {FIRST_EDITION[:7]}; fetch the history: git fetch --unshallow")
    folder = tmp_path_factory.mktemp("first")
    template, service = Repository(folder / "template"), Repository(folder / "services/order-service")
    template.folder.mkdir()
    archive = folder / "first.tar"
    for command in (
        ("git", "-C", TEMPLATE, "archive", f"--output={archive}", FIRST_EDITION),
        ("tar", "--extract", f"--file={archive}", f"--directory={template.folder}"),
    ):
        done = run(*command, cwd=folder)
        assert done.returncode == 0, done.stdout
    template.init()
    template.commit("The first edition")
    template.git("repack", "-a", "-d", "--quiet")  # a clone of loose objects compresses them all again
    create = ("cookiecutter", "--no-input", "--config-file", own_config(folder / "own"), "-o", folder / "services")
    made = run(*create, f"git+{template.folder.as_uri()}", "owner=acme", cwd=folder)
    assert made.returncode == 0, made.stdout
    service.init()
    service.commit("From the template")
    assert service.read("src/order_service/chassis/__init__.py")
    return template.folder, service.folder


@pytest.fixture
def template(first_day: tuple[Path, Path], tmp_path: Path) -> Repository:
    """A copy of that repository, for one test."""
    return Repository(copy_folder(first_day[0], tmp_path / "template"))


@pytest.fixture
def service(first_day: tuple[Path, Path], template: Repository, tmp_path: Path) -> Repository:
    """A copy of that service, which comes from `template`."""
    service = Repository(copy_folder(first_day[1], tmp_path / "services/order-service"))
    service.write(NOTE, service.read(NOTE).replace(first_day[0].as_uri(), template.folder.as_uri()))
    service.git("commit", "--quiet", "--all", "--amend", "--no-edit")
    return service


def move_on(template: Repository, repository: Path) -> str:
    """Commit the working tree as the template's next version."""
    template.git("rm", "-r", "--quiet", ".")
    shutil.copytree(repository, template.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".git"))
    return template.commit("The core is a folder of its own")


def commands_of_the_changelog(template: Repository) -> list[str]:
    """The commands of the upgrade note, with the template's address filled in."""
    note = (TEMPLATE / "CHANGELOG.md").read_text().partition("### Upgrading")[2].partition("\n### ")[0]
    commands = re.findall(r"^ *\$ (.*)$", note, re.MULTILINE)
    return [command.replace("<the template's repository>", template.folder.as_uri()) for command in commands]


def follow_the_changelog(service: Repository, template: Repository, update: str = UPDATE) -> dict[str, str]:
    """Type the commands of the note one after the other; returns what each has said."""
    said = {}
    for command in commands_of_the_changelog(template):
        typed = update if command == UPDATE else command
        done = run("sh", "-c", typed, cwd=service.folder, **IDENTITY)
        assert typed.startswith("make update") or done.returncode == 0, f"{typed}\n{done.stdout}"
        said[command] = done.stdout
    return said


def add_work_of_the_owner(service: Repository) -> None:
    """A handler by the old command, a setting with its row, a paragraph, a module with its test, a dependency."""
    service.make("handler", "name=invoices")
    service.write("src/order_service/money.py", OWN_MODULE)
    service.write("tests/test_money.py", OWN_TEST)
    service.edit("README.md", "\n## How it ends\n", f"\n{PARAGRAPH}\n## How it ends\n")
    service.edit("pyproject.toml", '    "websockets>=15",\n', '    "websockets>=15",\n    "tomli-w>=1",\n')


def assert_layout_is_the_present_one(service: Repository) -> None:
    assert not (service.folder / "src/order_service/chassis").exists()
    assert not (service.folder / "tests/chassis").exists()
    assert (service.folder / "chassis/src/chassis/app.py").is_file()
    assert "chassis import" in service.read("tests/test_money.py")
    assert "order_service.chassis" not in service.git("grep", "-h", "-e", "chassis", "--", "src", "tests")
    assert PARAGRAPH in service.read("README.md")
    assert '"tomli-w>=1"' in service.read("pyproject.toml")


def assert_checks_have_passed(said: dict[str, str]) -> None:
    """The note ends with them, and a check that fails is an error in `follow_the_changelog`."""
    assert list(said)[-1] == "make check"
    assert "warning" not in said["make check"]


def responses(service: Repository, paths: list[str]) -> list[int]:
    """The statuses of GET requests to the service, started by `make run`."""
    python = service.folder / ".venv/bin/python"
    with running(python, service.folder, service.folder.parent) as process:
        process.ready()
        return [process.http.get(path).status_code for path in paths]


def test_update_keeps_the_work_of_the_owner(
    service: Repository, template: Repository, repository: Path, tmp_path: Path
) -> None:
    add_work_of_the_owner(service)
    field = '    max_orders: int = Field(10_000, ge=1, description="Orders that the store holds before it is full.")\n'
    days = '    invoice_days: int = Field(30, description="Days until an invoice is due.")\n'
    service.edit("src/order_service/settings.py", field, field + days)
    row = "| `APP_INVOICE_DAYS` | `30` | Days until an invoice is due. |\n"
    service.edit("README.md", LAST_SETTING, LAST_SETTING + row)
    service.commit("Invoices")
    newest = move_on(template, repository)

    said = follow_the_changelog(service, template)

    # The update script of that time could not go on when pyproject.toml had a conflict.
    assert "error: cruft diff failed" in said[UPDATE]
    assert "left to do" not in "".join(text for command, text in said.items() if command != UPDATE)
    assert json.loads(service.read(".cruft.json"))["commit"] == newest
    assert_layout_is_the_present_one(service)
    assert days in service.read("src/order_service/settings.py")
    assert row in service.read("docs/settings.md")
    assert row not in service.read("README.md")
    assert 'app.add_route("/invoices", Invoices())' in service.read("src/order_service/app.py")
    assert_checks_have_passed(said)
    assert responses(service, ["/orders", "/invoices", "/readyz"]) == [200, 200, 200]


def test_script_before_the_update_says_so_and_changes_nothing(service: Repository) -> None:
    done = run(sys.executable, TEMPLATE / "scripts/upgrade.py", cwd=service.folder)

    assert (
        done.stdout
        == f"error: {service.folder} has no chassis/pyproject.toml; run `make update` in the service first\n"
    )
    assert service.git("status", "--porcelain") == ""


# app.py as the recipes of the first edition made it, without the example.
APP = '''"""The service on one page: its routes, its middleware in order, its checks and collaborators."""

from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Mount

from .chassis import App, Check, LoadControl, Route, Tasks, Telemetry
from .chassis.client import http_client
from .chassis.middleware import GuardMiddleware, SecurityHeadersMiddleware, TelemetryMiddleware
from .database import Database
from .handlers.letters import Letters
from .settings import Settings
from .tenant import TenantMiddleware

CATALOGUE_URL = "http://127.0.0.1:9"


def create_app(settings: Settings) -> App:
    """Put the service together; nothing listens and nothing is connected until a server runs it."""
    telemetry = Telemetry.from_settings(settings)
    tasks = Tasks(telemetry)
    database = Database(settings.greeting)
    catalogue = http_client(base_url=CATALOGUE_URL)

    return App(
        telemetry=telemetry,
        tasks=tasks,
        routes=[
            Route("/tasks/{name}", Letters(database, telemetry.metrics.registry, tasks)),
            Mount("/legacy", app=PlainTextResponse("old")),
        ],
        middleware=[  # from the outermost to the innermost; yours go last
            Middleware(TelemetryMiddleware, telemetry=telemetry),
            Middleware(SecurityHeadersMiddleware),
            Middleware(
                GuardMiddleware,
                max_body_bytes=settings.max_body_bytes,
                deadline_seconds=settings.deadline_seconds,
                timed_out=telemetry.metrics.timed_out_requests,
                load=LoadControl(settings.max_requests, telemetry.metrics, queue_seconds=settings.queue_seconds),
            ),
            Middleware(TenantMiddleware, name="blue"),
        ],
        checks=[Check("database", database.check, timeout=2.0)],
        resources=[catalogue],
        readiness_cache_seconds=settings.readiness_cache_seconds,
    )
'''
OWN_FILES = {
    "src/order_service/app.py": APP,
    "src/order_service/settings.py": '''"""Your settings."""

from pydantic import Field

from .chassis import ChassisSettings


class Settings(ChassisSettings):
    """What this service can be told."""

    greeting: str = Field("Hello", min_length=1, description="What a greeting begins with.")
''',
    "src/order_service/database.py": '''"""The database."""


class Database:
    """Where names are."""

    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    def check(self) -> None:
        """Raises when nobody listens there."""
''',
    "src/order_service/handlers/letters.py": '''"""Letters."""

import asyncio

from prometheus_client import CollectorRegistry, Counter

from ..chassis import Handler, Tasks
from ..database import Database


class Letters(Handler):
    """Letters that are sent later."""

    def __init__(self, database: Database, registry: CollectorRegistry, tasks: Tasks) -> None:
        self._database = database
        self._tasks = tasks
        self._sent = Counter("letters", "Letters.", registry=registry)

    async def get(self, name: str) -> str:
        """Greet somebody, and send a letter soon."""
        self._sent.inc()
        self._tasks.start(asyncio.sleep(0), name="send")
        return f"{self._database.greeting}, {name}!"
''',
    "src/order_service/tenant.py": '''"""The tenant of a request."""

from starlette.types import ASGIApp, Receive, Scope, Send

from .chassis import Problem


class TenantMiddleware:
    """Rejects requests for other tenants."""

    def __init__(self, app: ASGIApp, name: str) -> None:
        self._app = app
        self._header = (b"x-tenant", name.encode())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"].startswith("/tasks") and self._header not in scope["headers"]:
            raise Problem(400, "Send the tenant as X-Tenant.")
        await self._app(scope, receive, send)
''',
    "tests/test_letters.py": '''"""Letters."""

import httpx

from order_service.app import create_app
from order_service.chassis import Server
from order_service.settings import Settings


async def test_tenant_is_needed_and_people_are_greeted() -> None:
    app = create_app(Settings(_env_file=None))  # type: ignore[call-arg]
    async with (
        Server(app, port=0) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{server.port}", trust_env=False) as client,
    ):
        assert (await client.get("/tasks/ada")).status_code == 400
        client.headers["x-tenant"] = "blue"
        assert (await client.get("/tasks/ada")).json() == "Hello, ada!"
        assert (await client.get("/legacy/x")).text == "old"
        assert (await client.get("/readyz")).json()["checks"]["database"]["status"] == "pass"
''',
}


def test_update_keeps_an_app_without_the_example(service: Repository, template: Repository, repository: Path) -> None:
    add_work_of_the_owner(service)
    for path in (
        "src/order_service/handlers/orders.py",
        "tests/test_orders.py",
        "src/order_service/handlers/invoices.py",
    ):
        (service.folder / path).unlink()
    (service.folder / "tests/test_invoices.py").unlink()
    for path, text in OWN_FILES.items():
        service.write(path, text)
    service.edit("README.md", LAST_SETTING, "| `APP_GREETING` | `Hello` | What a greeting begins with. |\n")
    service.make("fix")
    service.commit("Letters")
    move_on(template, repository)

    said = follow_the_changelog(service, template, update="make update SET='deploy=kustomize example=none'")

    assert "left to do" not in "".join(text for command, text in said.items() if command != UPDATE)
    assert_layout_is_the_present_one(service)
    assert not (service.folder / "src/order_service/orders").exists()
    assert not (service.folder / "tests/test_orders.py").exists()
    assert_checks_have_passed(said)
    service.commit("Update")
    assert "up to date" in service.make("update")
    assert responses(service, ["/tasks/ada", "/readyz"]) == [400, 200]
