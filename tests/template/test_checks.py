"""The rendered service passes its own checks as rendered, and they notice what is wrong."""

import re
from pathlib import Path

import pytest

from bakery import TEMPLATE, files_of, render, run
from checks import check
from conftest import Bake
from guides import write_settings_page

pytestmark = pytest.mark.long

# Packages that the core's tests import and a service lacks.
FOR_TESTS_OF_THE_CORE = {
    "hypothesis",
    "openapi-spec-validator",
    "opentelemetry-exporter-otlp-proto-common",
    "opentelemetry-instrumentation-httpx",
    "opentelemetry-propagator-b3",
    "opentelemetry-proto",
    "pytest-timeout",
    "pytest-xdist",
    "uvicorn",
}


def test_default_service_passes_its_own_checks(installed: Path) -> None:
    before = {path: (installed / path).read_bytes() for path in tracked(installed)}

    checked = run("make", "check", cwd=installed, CI="true")

    assert checked.returncode == 0, checked.stdout
    assert {path: (installed / path).read_bytes() for path in tracked(installed)} == before


def tracked(project: Path) -> list[str]:
    """The files that people edit, and the core, without caches."""
    ours = [path for path in files_of(project) if path.startswith(("chassis/", "src/", "tests/", ".github/"))]
    return [path for path in ours if "__pycache__" not in path]


def test_lock_file_that_does_not_fit_fails_the_checks(installed: Path, bake: Bake) -> None:
    project = bake()
    assert run("make", "locked", cwd=project).stdout == ""  # a fresh service has none yet
    (project / "uv.lock").write_bytes((installed / "uv.lock").read_bytes())
    assert run("make", "locked", cwd=project).stdout == ""
    text = (project / "pyproject.toml").read_text()
    (project / "pyproject.toml").write_text(text.replace('    "structlog', '    "tomli-w>=1",\n    "structlog'))

    checked = run("make", "check", cwd=project)

    assert checked.returncode != 0
    assert "error: uv.lock does not fit pyproject.toml; update it: uv lock; then commit uv.lock" in checked.stdout
    assert (project / "uv.lock").read_bytes() == (installed / "uv.lock").read_bytes()


def test_machine_without_the_python_of_the_service_uses_another_and_says_so(bake: Bake) -> None:
    project = bake()
    (project / ".python-version").write_text("3.99\n")

    made = run("env", "--unset=UV_PYTHON", "make", ".cache/python", cwd=project)

    assert made.stdout.endswith(
        "warning: Python 3.99 of .python-version is not available, so Python >=3.11 is used; "
        "install it, then: rm .cache/python\n"
    )
    assert (project / ".cache/python").read_text() == ">=3.11\n"


def test_handlers_without_tests_fail_the_gate_of_coverage(bake: Bake, python: Path) -> None:
    project = bake()
    (project / "tests/test_orders.py").unlink()

    # Without the tests that start a process, in which no coverage is measured.
    options = ("--quiet", "--cov", "-k", "openapi or page or example or readme")
    tested = run(python, "-m", "pytest", *options, cwd=project, PYTHONPATH="src")

    assert tested.returncode != 0
    assert "5 passed" in tested.stdout
    assert re.search(r"Required test coverage of 95(\.0)?% not reached", tested.stdout), tested.stdout
    assert "failed" not in tested.stdout


def test_tests_of_the_service_hold_for_an_owner_with_a_database(bake: Bake, python: Path) -> None:
    """A check of something that is not there, a setting without a default, middleware that rejects, and a `.env`."""
    project = bake()
    package = project / "src/order_service"
    settings, app, conftest = package / "settings.py", package / "app.py", project / "tests/conftest.py"
    setting = '    database_url: str = Field(description="Where the database is.")\n'
    settings.write_text(settings.read_text() + setting)
    write_settings_page(project, python)
    values = "SETTINGS: dict[str, str] = {"
    assert values in conftest.read_text()
    conftest.write_text(conftest.read_text().replace(values, f'{values}"database_url": "postgresql://nowhere/"'))
    lines = """    app.add_check("database", lambda: 1 / 0)
    app.add_middleware(Rejecting)
    return app


class Rejecting:
    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] == "http" and not scope["path"].startswith("/orders"):
            raise Problem(401, "Who are you?")
        await self.app(scope, receive, send)
"""
    text = app.read_text().replace("    return app\n", lines).replace("import App\n", "import App, Problem\n")
    app.write_text(text)
    (project / ".env").write_text("APP_LOG_FORMAT=console\nAPP_ADMIN_PORT=9100\n")

    tested = run(python, "-m", "pytest", "--quiet", cwd=project, PYTHONPATH="src")

    assert tested.returncode == 0, tested.stdout
    assert "28 passed" in tested.stdout


DATABASE = """

class Database(BaseModel):
    \"\"\"Where the orders are.\"\"\"

    host: str = Field(description="Host of the database.")
    port: int = Field(5432, ge=1, description="Port of the database.")


class Settings(ChassisSettings):
    \"\"\"The settings of this service.\"\"\"

    database: Database = Field(description="The database.")
"""
TEST_DATABASE = """

def test_variable_of_the_test_replaces_the_value(settings: Settings) -> None:
    assert (settings.database.host, settings.database.port) == ("ci", 5432)
    assert Settings().database == Database(host="ci")
"""


def test_setting_without_a_default_needs_no_type_ignore_and_a_variable_replaces_its_value(
    bake: Bake, python: Path
) -> None:
    project = bake()
    settings, conftest = project / "src/order_service/settings.py", project / "tests/conftest.py"
    text = settings.read_text().replace("import Field", "import BaseModel, Field")
    head, _, fields = text.partition("\n\nclass Settings(ChassisSettings):\n")
    settings.write_text(head + DATABASE + fields.partition('service."""\n')[2].lstrip("\n"))
    values = "SETTINGS: dict[str, str] = {"
    conftest.write_text(conftest.read_text().replace(values, f'{values}"database__host": "here"'))
    test = project / "tests/test_settings.py"
    test.write_text(f'"""Settings."""\n\nfrom order_service.settings import Database, Settings\n{TEST_DATABASE}')
    made = run(python, "scripts/handler.py", "invoices", cwd=project)
    assert made.returncode == 0, made.stdout

    check(project, python)
    environment = {"PYTHONPATH": "src", "TEST_APP_DATABASE__HOST": "ci", "APP_DATABASE__HOST": "mine"}
    tests = ("tests/test_settings.py", "tests/test_invoices.py", "tests/test_orders.py")
    tested = run(python, "-m", "pytest", "--quiet", "--no-cov", *tests, cwd=project, **environment)
    assert tested.returncode == 0, tested.stdout


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with the oldest libraries that it and the core allow, all at once."""
    project = render(tmp_path_factory.mktemp("oldest"), {})
    synced = run("uv", "sync", "--quiet", "--resolution", "lowest-direct", cwd=project)
    assert synced.returncode == 0, synced.stdout
    return project


# Libraries that no other environment has.
BYTECODE = ".cache/bytecode"


def test_floors_of_the_service_are_true(oldest: Path) -> None:
    caches = {"PYTHONPYCACHEPREFIX": str(oldest / BYTECODE), "MYPY_CACHE_DIR": str(oldest / ".cache/mypy")}
    for tool, *arguments in (("mypy",), ("pytest", "-q", "--no-cov")):
        checked = run(oldest / ".venv/bin" / tool, *arguments, cwd=oldest, **caches)
        assert checked.returncode == 0, checked.stdout


OPTIONAL = (
    "test_auth",
    "test_client_httpx_adapter",
    "test_client_transport",
    "test_command_database",
    "test_database",
    "test_embedded",
    "test_grpc",
    "test_migrations",
    "test_nats",
    "test_operators_inside",
    "test_outbox",
    "test_postgres",
    "test_pytest_plugin",
    "test_sqlalchemy",
)
# Files about time, threads, processes and sockets do not depend on the versions of libraries. Nor do those about rules
# of the core that use a library as other files do.
NOT_ABOUT_LIBRARIES = """
any_signature connection_age deadline draining forks idempotency imports lease listening load log_writer loop_watch
periodic rejections response_end route_limits schedules signals tasks threads watchdog
client_balancer client_breaker client_bulkhead client_hedging client_policy_simulation client_resolver client_retries
client_starvation contract fake_service openapi_fake_service
asgi calls client_attempt_timeout client_faults commands deadline_of_caller events exit faults health log_tail
pagination protocol recent_requests rejections request_syntax server shared_output workers workers_cores workers_metrics
access admin cache client_telemetry command_arguments command_line conditional_requests console decorated_methods
dependencies docs effective_settings groups limits live_settings operators operators_access rate_limits recent_spans
redaction reloading request_head request_id request_info request_tasks response_head restart_warnings route_list run
sources start
"""

NOT_WITH_THE_OLDEST = (
    "download.py::test_download_ends_when_the_client_disconnects",
    "websocket_protocol.py::test_endless_stream_ends_with_its_client",
    "environment.py::test_modules_can_be_imported_with_every_variable_invalid",
    "routing.py::test_router_finds_each_of_a_thousand_routes",
)


@pytest.mark.timeout(600)
def test_floors_of_the_core_are_true(oldest: Path) -> None:
    text = (TEMPLATE / "pyproject.toml").read_text()
    lines: list[str] = re.findall(r'^    "(.*)",$', text, re.MULTILINE)
    needed = [line for line in lines if re.split("[<>=]", line)[0] in FOR_TESTS_OF_THE_CORE]
    assert len(needed) == len(FOR_TESTS_OF_THE_CORE)
    python = oldest / ".venv/bin/python"
    added = run("uv", "pip", "install", "-q", f"--python={python}", "--resolution=lowest-direct", *needed, cwd=oldest)
    assert added.returncode == 0, added.stdout

    # Costs, and the encoding of rare values, are those of today's libraries. Other frameworks are not installed.
    peers = ("test_mounted_tracing", "test_other_peoples_middleware", "test_other_servers", "test_security_headers")
    names = ["test_cost", "test_otlp", *peers, *(f"test_{name}" for name in NOT_ABOUT_LIBRARIES.split())]
    # The libraries of optional parts have recent oldest versions, and the service has no such parts.
    names += [path.stem for path in (TEMPLATE / "chassis/tests").glob("test_*.py") if path.stem.startswith(OPTIONAL)]
    left_out = [f"--ignore=chassis/tests/{name}.py" for name in names]
    assert [name for name in names if not (TEMPLATE / f"chassis/tests/{name}.py").is_file()] == []
    # A download whose client leaves had its file closed by the garbage collector then. The others take seconds.
    left_out += [f"--deselect=chassis/tests/test_{name}" for name in NOT_WITH_THE_OLDEST]
    # A test that hangs is named, and its stack is shown.
    limits = ("-o", "timeout=60", "-o", "faulthandler_timeout=80")
    # Generated values show rules of the core. A busy machine generates them too slowly for hypothesis.
    options = ("-v", "-p", "no:cacheprovider", "-m", "not hypothesis", *limits, *left_out)
    bytecode = {"PYTHONPYCACHEPREFIX": str(oldest / BYTECODE)}
    tested = run("timeout", "300", python, "-m", "pytest", *options, "chassis/tests", cwd=TEMPLATE, **bytecode)

    assert tested.returncode == 0, tested.stdout
