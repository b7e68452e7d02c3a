"""READMEs and guides are plain English, and everything that they refer to exists."""

import ast
import re
from pathlib import Path

import pytest

import prose
from bakery import SOURCE, TEMPLATE, package_of
from chassis.auth import AuthSettings
from chassis.grpc import GrpcSettings
from chassis.nats import NatsSettings
from chassis.postgres import DatabaseSettings
from conftest import Bake
from references import Document, targets_of, unknown_metrics
from running import Service

ENGLISH = [
    *(TEMPLATE / name for name in ("README.md", "AGENTS.md", "CONTRIBUTING.md", "SECURITY.md", "benchmarks/README.md")),
    TEMPLATE / ".github/PULL_REQUEST_TEMPLATE.md",
    *sorted((TEMPLATE / "docs").glob("*.md")),
    TEMPLATE / "chassis/README.md",
    *sorted((TEMPLATE / "chassis/docs").glob("*.md")),
]
# It names files and commands of earlier versions, so only its sentences and links are checked.
CHANGELOG = TEMPLATE / "CHANGELOG.md"
PYTHON = ("chassis", "hooks", "scripts", "tests", "benchmarks", "docs")
CORE = TEMPLATE / "chassis/src/chassis"
# A document may name a file without its folder.
NAMED = ("tests", "benchmarks", "chassis", SOURCE.name)
FILE_NAMES = {path.name for folder in NAMED for path in (TEMPLATE / folder).rglob("*.*")}


@pytest.fixture(scope="module")
def project(installed: Path) -> Path:
    """The default service."""
    return installed


def documents_of(project: Path) -> list[Path]:
    """The documents of a service; `chassis/` has those of the template."""
    return [path for path in sorted(project.rglob("*.md")) if not {".venv", "chassis"} & set(path.parts)]


def name_of(path: Path) -> str:
    return path.relative_to(TEMPLATE).as_posix()


@pytest.mark.parametrize("path", [*ENGLISH, CHANGELOG], ids=name_of)
def test_document_is_plain_english(path: Path) -> None:
    assert [str(finding) for finding in prose.findings(path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize("folder", PYTHON)
def test_docstrings_and_comments_are_plain_english(folder: str) -> None:
    assert findings_in_python(TEMPLATE / folder) == {}


def test_docstrings_and_comments_of_a_service_are_plain_english(project: Path) -> None:
    assert findings_in_python(project) == {}


def findings_in_python(folder: Path) -> dict[str, list[str]]:
    """The findings in each module; prose.py itself has the words that it looks for."""
    paths = [path for path in folder.rglob("*.py") if not {".work", ".venv", "prose.py"} & set(path.parts)]
    found = {path: prose.findings_of_python(path.read_text(encoding="utf-8")) for path in paths}
    return {
        path.relative_to(folder).as_posix(): list(map(str, sentences)) for path, sentences in found.items() if sentences
    }


@pytest.mark.parametrize("path", [*ENGLISH, CHANGELOG], ids=name_of)
def test_links_of_a_document_lead_somewhere(path: Path) -> None:
    assert Document(path).dead_links() == []


ANSWERS = [
    {},
    {"database": "postgres", "events": "nats", "auth": "jwt", "deploy": "helm", "ci": "gitlab"},
    {"database": "sqlalchemy", "example": "none"},
    {"auth": "jwt", "events": "nats", "deploy": "none", "monitoring": "none", "ci": "none"},
]


@pytest.mark.parametrize("answers", ANSWERS, ids=lambda answers: "-".join(answers.values()) or "defaults")
def test_documents_of_a_service_are_plain_english(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    found = {path.relative_to(project): prose.findings(path.read_text()) for path in documents_of(project)}

    assert {name: list(map(str, findings)) for name, findings in found.items() if findings} == {}


@pytest.mark.parametrize("answers", ANSWERS, ids=lambda answers: "-".join(answers.values()) or "defaults")
def test_readme_and_agents_link_the_guides_of_their_options(bake: Bake, answers: dict[str, str]) -> None:
    of_database = {"database", "migrations", "outbox"}
    guides = {"postgres": of_database, "sqlalchemy": {*of_database, "sqlalchemy"}, "nats": {"events"}}
    wanted = set().union(*(guides.get(answer, set()) for answer in answers.values()))
    others = set().union(*guides.values()) - wanted
    project = bake(**answers)
    for name in ("README.md", "AGENTS.md"):
        text = (project / name).read_text()
        linked = set(re.findall(r"\(chassis/docs/([a-z-]+)\.md", text))
        assert linked >= {"idempotency", *wanted}, name
        assert linked & others == set(), name
    readme = (project / "README.md").read_text()
    assert ("(chassis/docs/ci.md)" in readme) == (answers.get("ci") != "none")
    assert ("503 `The event could not be published`" in readme) == ("events" in answers)


def test_links_of_a_service_lead_somewhere(project: Path) -> None:
    dead = {path.relative_to(project): Document(path).dead_links() for path in documents_of(project)}

    assert {name: links for name, links in dead.items() if links} == {}


def test_links_of_a_service_with_other_options_lead_somewhere(bake: Bake) -> None:
    service = bake(deploy="none", monitoring="none", ci="none", example="none")

    dead = {path.relative_to(service): Document(path).dead_links() for path in documents_of(service)}
    assert {name: links for name, links in dead.items() if links} == {}


def test_guides_link_to_nothing_outside_of_the_core() -> None:
    core = TEMPLATE / "chassis"
    for path in (core / "docs").glob("*.md"):
        local = [link.partition("#")[0] for link in Document(path).links() if not re.match(r"[a-z]+:|#", link)]
        assert [link for link in local if not (path.parent / link).resolve().is_relative_to(core)] == [], path.name


def test_make_targets_of_documents_exist(project: Path) -> None:
    of_service = targets_of(project / "Makefile", *project.glob("*/*.mk"))
    of_template = targets_of(TEMPLATE / "Makefile")
    of_other_answers = targets_of(SOURCE / "Makefile")  # guides are for services with a database, too
    unknown = {
        path: Document(path).targets() - of_service - (of_other_answers if "chassis/docs" in str(path) else of_template)
        for path in (*ENGLISH, *documents_of(project))
    }
    assert {path: names for path, names in unknown.items() if names} == {}


def test_paths_of_documents_exist(project: Path) -> None:
    missing = {
        path: {name for name in Document(path).paths() if not exists(name, path, project)}
        for path in (*ENGLISH, *documents_of(project))
    }
    assert {path: names for path, names in missing.items() if names} == {}


def exists(name: str, document: Path, project: Path) -> bool:
    package = project / "src" / package_of(project)
    folders = (TEMPLATE, project, document.parent, TEMPLATE / "chassis", package, CORE)
    return any((folder / name).exists() for folder in folders) or name in FILE_NAMES


def test_settings_of_documents_exist(project: Path) -> None:
    settings = set(re.findall(r"^\| `(APP_\w+)`", (project / "docs/settings.md").read_text(), re.MULTILINE))
    settings |= {
        f"APP_{name.upper()}"
        for part in (AuthSettings, DatabaseSettings, GrpcSettings, NatsSettings)
        for name in part.model_fields
    }
    special = set(re.findall(r"\bAPP_[A-Z_]*[A-Z]\b", sources()))
    unknown = {
        path: {name for name in Document(path).settings() - settings - special if not prefix(name, settings)}
        for path in (*ENGLISH, *documents_of(project))
    }
    assert {path: names for path, names in unknown.items() if names} == {}


def prefix(name: str, settings: set[str]) -> bool:
    """`APP_MAX_…` and `APP_LOG_*` stand for several settings."""
    return any(setting.startswith(f"{name}_") for setting in settings)


def test_variables_of_opentelemetry_are_those_of_the_guide(project: Path) -> None:
    # tests/template/test_guides_operations.py compares the guide with the code.
    guide = Document(TEMPLATE / "chassis/docs/tracing.md").otel_variables()
    unknown = {path: Document(path).otel_variables() - guide for path in (*ENGLISH, *documents_of(project))}

    assert {path: names for path, names in unknown.items() if any(not prefix(name, guide) for name in names)} == {}


def test_metrics_of_documents_exist(project: Path, service: Service) -> None:
    exposed = set(re.findall(r"^# TYPE (\w+)", service.http.get("/metrics").text, re.MULTILINE))
    constants = {
        node.value
        for path in CORE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"[a-z]+(?:_[a-z]+)+", node.value)
    }
    for path in (*ENGLISH, *documents_of(project)):
        assert unknown_metrics(Document(path), exposed | constants) == set(), path


def sources() -> str:
    """The text of the core's and the skeleton's Python."""
    paths = [*CORE.rglob("*.py"), *SOURCE.rglob("*.py")]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)
