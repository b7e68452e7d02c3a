"""The page about errors quotes messages that the code has, and that people see."""

import re
import shutil
import socket
from pathlib import Path

import pytest

from bakery import SOURCE, TEMPLATE, extend_app, package_of, run
from conftest import Bake, Start
from running import Service

PAGE = (TEMPLATE / "chassis/docs/troubleshooting.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (?!message|status|symptom|---)(.*?) \| .* \| .* \|$", PAGE, re.MULTILINE)
QUOTES = [quote for row in ROWS for quote in re.findall(r"`([^`]+)`", row)]
# Neither of these is a message: paths, names, and the words of other programs.
NOT_OURS = {
    "error: APP_…: …",
    "/readyz",
    "0/1 Running",
    "Address already in use",
    "APP_MAX_BODY_BYTES",
    "No module named 'cookiecutter_2_2_or_newer'",
    "ValueError: … provided for choice variable …, but the choices are […]",
    "Requirements contain conflicting URLs for package asgi-chassis",
    "Can't reconnect until invalid transaction is rolled back",
}


def source_text() -> str:
    """Everything that writes messages; a literal that goes on in the next line is in one piece."""
    folders = [TEMPLATE / "chassis/src", SOURCE / "scripts", SOURCE / "deploy", SOURCE / "monitoring"]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in {".py", ".mk"}]
    files += [SOURCE / "Makefile", SOURCE / "tests/test_contract.py"]
    files += [*(TEMPLATE / "hooks").glob("*.py"), *TEMPLATE.glob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in files)
    return re.sub(r'"\s*\n\s*f?"', "", text)


CODE = source_text()


def test_page_has_at_least_twenty_errors() -> None:
    assert len(ROWS) >= 20


@pytest.mark.parametrize("quote", sorted({*QUOTES} - NOT_OURS))
def test_quoted_message_is_in_the_code(quote: str) -> None:
    for part in quote.removeprefix("error: ").split("…"):
        words = part.strip(" :,.()")
        assert words in CODE, words


def quoted(status_or_text: str) -> str:
    """A part of a message, if the page quotes it."""
    assert any(status_or_text in row for row in ROWS), status_or_text
    return status_or_text


HANDLER = '''"""Fails in every way."""

import asyncio
import time

from chassis import Handler


class Failing(Handler):
    """Fails as it is asked to."""

    async def get(self, how: str, count: int = 0) -> str:
        """Fail."""
        if how == "error":
            raise ValueError("internal detail")
        if how == "blocks":
            time.sleep(1.5)
        if how == "late":
            await asyncio.sleep(30)
        return how

    async def post(self, body: dict[str, int]) -> None:
        """Take JSON."""
'''


def with_handler(project: Path, source: str, lines: str) -> Path:
    (project / "src" / package_of(project) / "failing.py").write_text(source)
    extend_app(project, lines)
    return project


@pytest.fixture
def failing(bake: Bake, start: Start) -> Service:
    """A service with a handler that fails."""
    lines = 'from .failing import Failing\napp.add_route("/failing", Failing(), deadline_seconds=1)'
    project = with_handler(bake(), HANDLER, lines)
    return start(project, APP_MAX_TARGET_BYTES="500", APP_MAX_BODY_BYTES="1000", OTEL_TRACES_SAMPLER="often").ready()


def test_errors_of_requests_say_what_the_page_quotes(failing: Service) -> None:
    http = failing.http
    json = {"content-type": "application/json"}
    for response, status, message in (
        (http.post("/failing", content="{", headers=json), 400, quoted("The body is not valid JSON: ")),
        (http.post("/failing", content="{}"), 415, quoted("Content-Type must be application/json.")),
        (http.post("/failing", json={"a": "x"}), 422, quoted("The request has invalid values; ")),
        (http.get(f"/failing?how={'x' * 600}"), 414, quoted("The request target is longer than ")),
        (http.get("/failing?how=error"), 500, quoted("The service failed to handle the request; ")),
        (http.get("/failing?how=late"), 504, quoted("The service did not respond before the request's deadline.")),
        (http.get("/failing", params={"how": "a"}, headers={"x": "y" * 40_000}), 431, quoted("headers are larger")),
    ):
        assert (response.status_code, message in response.json()["detail"]) == (status, True), response.text
    assert http.post("/failing", content="1" * 2000, headers=json).status_code == 413


def test_log_says_what_the_page_quotes(failing: Service) -> None:
    trace_id = failing.http.get("/failing?how=error").json()["trace_id"]
    assert failing.event("unhandled exception", trace_id=trace_id)
    failing.http.get("/failing?how=blocks")
    failing.event(quoted("event loop is blocked"))
    assert any("OTEL_TRACES_SAMPLER" in line and quoted("is ignored: ") in line for line in failing.output)


def test_client_that_leaves_is_499(failing: Service) -> None:
    with socket.create_connection(("127.0.0.1", failing.port)) as client:
        client.sendall(b"GET /failing?how=late HTTP/1.1\r\nhost: x\r\n\r\n")
    failing.access_lines(1, status=499)


def test_wrong_setting_is_named(bake: Bake, start: Start) -> None:
    service = start(bake(), APP_PORT="none")
    assert service.process.wait(20) == 2
    assert service.errors.all()[0].startswith("error: APP_PORT='none': ")


def test_port_in_use_is_named(bake: Bake, start: Start) -> None:
    project = bake()
    port = start(project).ready().port
    second = start(project, APP_PORT=str(port))
    event = second.event(quoted("cannot listen"))
    assert quoted("Address already in use").lower() in event["error"].lower()
    assert second.process.wait(20) == 1


@pytest.mark.parametrize(
    ("signature", "message"),
    [
        ("self, name", "has no annotation"),
        ("self, failing: Handler", "If it is a dependency, call app.provide("),
    ],
)
def test_wrong_signature_stops_the_start(bake: Bake, start: Start, signature: str, message: str) -> None:
    source = HANDLER.replace("self, how: str, count: int = 0", signature)
    lines = 'from .failing import Failing\napp.add_route("/failing", Failing())'
    service = start(with_handler(bake(), source, lines))
    assert service.process.wait(20) != 0
    assert quoted(message) in "\n".join([*service.output.all(), *service.errors.all()])


def test_check_that_fails_makes_readiness_503(bake: Bake, start: Start) -> None:
    project = bake()
    extend_app(project, 'app.add_check("warehouse", lambda: 1 / 0)')
    service = start(project).listening()
    response = service.admin.get("/readyz")
    assert response.status_code == 503
    assert "warehouse" in response.text


def test_edited_core_is_named(bake: Bake) -> None:
    project = bake()
    (project / "chassis/src/chassis/version.py").write_text("__version__ = '9'\n")
    done = run("python3", "scripts/vendor.py", "verify", cwd=project)
    assert done.returncode == 1
    assert quoted("differ from the template: ") in done.stdout


def test_missing_core_is_named(bake: Bake) -> None:
    project = bake()
    shutil.rmtree(project / "chassis")
    done = run("make", "core", cwd=project)
    assert done.returncode != 0
    assert quoted("with the core of the service is missing; ") in done.stdout


def test_missing_engine_is_named(bake: Bake) -> None:
    done = run("make", "image", "ENGINE=no-such-engine", cwd=bake())
    assert done.returncode != 0
    assert f"no-such-engine {quoted('is not installed; install docker or podman, or set ENGINE=')}" in done.stdout


@pytest.mark.parametrize("has_note", [True, False])
def test_update_says_what_is_in_its_way(bake: Bake, has_note: bool) -> None:
    project = bake()
    (project / ".cruft.json").unlink(missing_ok=True)
    if has_note:
        (project / ".cruft.json").write_text("{}")
    who = ("-c", "user.name=test", "-c", "user.email=test@example.com")
    for command in (("init", "-q"), ("add", "-A"), (*who, "commit", "-q", "-m", "The service")):
        assert run("git", *command, cwd=project).returncode == 0
    (project / "README.md").write_text("Changed.")
    message = "git status shows uncommitted changes; " if has_note else ".cruft.json is missing; "
    done = run("python3", "scripts/update.py", "update", cwd=project)
    assert quoted(message) in done.stdout


def test_thread_that_does_not_end_is_named(bake: Bake, start: Start) -> None:
    source = HANDLER.replace("            time.sleep(1.5)", "            await asyncio.to_thread(time.sleep, 60)")
    lines = 'from .failing import Failing\napp.add_route("/failing", Failing(), deadline_seconds=1)'
    project = with_handler(bake(), source, lines)
    service = start(project, APP_SHUTDOWN_SECONDS="0").ready()
    assert service.http.get("/failing?how=blocks").status_code == 504
    assert service.end() == 0
    assert service.event(quoted("shutdown hangs; ending the process"))["threads"]
