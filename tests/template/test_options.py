"""Every answer to a question of choice, alone and beside every other: what is rendered passes its checks and runs."""

import itertools
import json
import re
import tomllib
from collections.abc import Callable
from difflib import ndiff
from pathlib import Path

import pytest

from bakery import TEMPLATE, files_of, render, run
from checks import CHECKS, check
from cluster import wait_until
from conftest import RAN, Bake, Start
from running import running

pytestmark = pytest.mark.long

OPTIONS = {
    "license": ("none", "MIT", "Apache-2.0"),
    "package": ("private", "public"),
    "ci": ("github", "gitlab", "none"),
    "database": ("none", "postgres", "sqlalchemy"),
    "events": ("none", "nats"),
    "auth": ("none", "jwt"),
    "deploy": ("kustomize", "helm", "none"),
    "monitoring": ("included", "none"),
    "example": ("orders", "none"),
}
# Each pair of options is in at least one of these rows, the defaults in the first. Each pair of the questions on which
# the code depends is in few different combinations of all four, because a service's tests take longest.
ROWS = [
    ("none", "private", "github", "none", "none", "none", "kustomize", "included", "orders"),
    ("MIT", "private", "gitlab", "sqlalchemy", "none", "none", "kustomize", "none", "none"),
    ("none", "private", "none", "sqlalchemy", "none", "none", "helm", "none", "none"),
    ("Apache-2.0", "public", "github", "sqlalchemy", "none", "none", "none", "none", "none"),
    ("Apache-2.0", "private", "none", "sqlalchemy", "nats", "jwt", "kustomize", "included", "orders"),
    ("Apache-2.0", "public", "none", "postgres", "none", "jwt", "kustomize", "included", "none"),
    ("MIT", "public", "github", "postgres", "nats", "none", "helm", "none", "orders"),
    ("none", "private", "gitlab", "postgres", "nats", "none", "none", "none", "orders"),
    ("Apache-2.0", "public", "gitlab", "none", "nats", "jwt", "helm", "included", "none"),
    ("MIT", "public", "none", "none", "nats", "jwt", "none", "included", "none"),
    ("none", "public", "github", "none", "nats", "jwt", "kustomize", "none", "none"),
]
OF_CODE = ("database", "events", "auth", "example")
# Files that exist for this option and for no other of its question.
FILES = {
    ("ci", "github"): {
        ".github/workflows/checks.yml",
        ".github/workflows/image.yml",
        ".github/dependabot.yml",
        "scripts/propose.py",
        "scripts/propose_on_github.py",
    },
    ("ci", "gitlab"): {".gitlab-ci.yml", "scripts/propose.py", "scripts/propose_on_gitlab.py"},
    ("database", "postgres"): {"src/order_service/tables.py", "src/order_service/migrations/env.py"},
    ("database", "sqlalchemy"): {"src/order_service/tables.py", "src/order_service/migrations/env.py"},
    ("deploy", "kustomize"): {
        "deploy/base/deployment.yaml",
        "deploy/deploy.py",
        "deploy/deploy.mk",
        "deploy/README.md",
    },
    ("deploy", "helm"): {"deploy/chart/values.yaml", "deploy/helm.py", "deploy/deploy.mk", "deploy/README.md"},
    ("monitoring", "included"): {"monitoring/compose.yaml", "monitoring/monitoring.mk", "docs/runbook.md"},
    ("example", "orders"): {"src/order_service/orders/handlers.py", "tests/test_orders.py"},
    ("license", "MIT"): {"LICENSE"},
    ("license", "Apache-2.0"): {"LICENSE"},
}
# Words that nobody should meet who has said no.
WORDS = {
    ("ci", "github"): r"github actions|\.github",
    ("ci", "gitlab"): "gitlab",
    ("database", "sqlalchemy"): "AsyncSession",
    ("events", "nats"): r"\bnats\b",
    ("auth", "jwt"): "add_auth|APP_AUTH_|chassis.auth",
    ("deploy", "kustomize"): "kustomiz",
    ("deploy", "helm"): r"\bhelm (upgrade|install|template)|deploy/chart|values-production",
    ("monitoring", "included"): r"monitoring/|grafana|make observe|pod-monitor|prometheus-rule|podmonitor",
    ("example", "orders"): r"\.orders\b|OrderStore|:8000/orders",
}


# The programs that start a service with its servers, as in its Makefile.
SERVERS = {
    "auth": ["python", "-m", "chassis.auth.development", "order_service", "--"],
    "events": ["python", "-m", "chassis.nats.embedded", "--"],
    "database": ["python", "-m", "chassis.postgres.embedded", "order_service", "--"],
}


def test_rows_have_every_pair_of_options() -> None:
    questions = json.loads((TEMPLATE / "cookiecutter.json").read_text())
    choices = {name: tuple(value) for name, value in questions.items() if isinstance(value, list) and name[0] != "_"}
    assert {name: value for name, value in choices.items() if name != "python_version"} == OPTIONS
    for one, other in itertools.combinations(range(len(OPTIONS)), 2):
        wanted = set(itertools.product(*(tuple(OPTIONS.values())[number] for number in (one, other))))
        assert {(row[one], row[other]) for row in ROWS} == wanted


def code_of(row: tuple[str, ...]) -> tuple[str, ...]:
    """The values of a row on which the code of a service and its tests depend."""
    answers = dict(zip(OPTIONS, row, strict=True))
    return tuple(answers[question] for question in OF_CODE)


# The first row with each code. The tests of its service run; a later one has the same files.
FIRST_WITH_ITS_CODE = {code_of(row): row for row in reversed(ROWS)}


def files_of_tests(project: Path) -> dict[str, object]:
    """The files that the tests of a service read, and the options of its tools; without README.md, which differs."""
    paths = [path for path in files_of(project) if path.startswith(("src/", "tests/", "docs/settings.md", ".env."))]
    metadata = tomllib.loads((project / "pyproject.toml").read_text())
    options = {name: metadata[name] for name in ("tool", "dependency-groups")}
    dependencies = metadata["project"]["dependencies"]
    return {path: (project / path).read_bytes() for path in paths} | options | {"dependencies": dependencies}


def assert_readme_is_true(project: Path) -> None:
    """Its settings are those of docs/settings.md, which equals that of a tested service, and its paths exist."""
    readme, settings = ((project / page).read_text() for page in ("README.md", "docs/settings.md"))
    rows = re.findall(r"^\| `APP_.*", readme, re.MULTILINE)
    assert rows
    assert set(rows) <= set(settings.splitlines())
    paths = re.findall(r"^[├└]── (\S+)", readme, re.MULTILINE)
    assert "tests/" in paths
    assert [path for path in paths if not (project / path).exists()] == []


@pytest.mark.parametrize("row", ROWS, ids="-".join)
def test_rendered_service_passes_its_checks_and_runs(
    bake: Bake,
    install: Bake,
    tmp_path: Path,
    row: tuple[str, ...],
    record_property: Callable[[str, object], None],
) -> None:
    answers = dict(zip(OPTIONS, row, strict=True))
    ran: dict[str, str] = {}
    record_property(RAN, (answers, ran))  # for the table at the end of the run
    project = bake(**answers)
    parts = {question: answers[question] for question in ("database", "events", "auth") if answers[question] != "none"}
    python = install(**parts) / ".venv/bin/python"

    rendered = set(files_of(project))
    given = set(answers.items())
    assert rendered >= set().union(*(files for answer, files in FILES.items() if answer in given))
    absent = set().union(*(files for answer, files in FILES.items() if answer not in given))
    absent -= set().union(*(files for answer, files in FILES.items() if answer in given))
    assert rendered & absent == set()
    if answers["deploy"] == "none":
        assert {path for path in rendered if path.startswith("deploy/")} == set()
    assert {path for path in rendered if path.startswith("licenses")} == set()
    for answer, words in WORDS.items():
        if answer not in given:
            owned = (path for path in rendered if not path.startswith("chassis/"))
            found = [path for path in owned if re.search(words, (project / path).read_text(), re.IGNORECASE)]
            assert found in ([], [".cruft.json"]), words
    ran["files"] = str(len(rendered))

    for command in CHECKS:
        check(project, python, command)
        ran[" ".join(command[:2]).removesuffix(" .")] = "ok"
    verified = run(python, "scripts/vendor.py", "verify", cwd=project)
    assert (verified.returncode, verified.stdout) == (0, "")
    first = FIRST_WITH_ITS_CODE[code_of(row)]
    if row == ROWS[0] or row != first:
        ran["its tests"] = ran["answers"] = "by make check" if row == ROWS[0] else "as above"  # in test_checks.py
        same = {} if row == ROWS[0] else dict(zip(OPTIONS, first, strict=True))
        assert files_of_tests(project) == files_of_tests(render(tmp_path / "same", same))
        assert_readme_is_true(project)
        return
    gate = "--cov" if {"sqlalchemy", "orders"} <= {*row} else "--no-cov"
    tested = run(python, "-m", "pytest", gate, cwd=project, PYTHONPATH="src")
    assert tested.returncode == 0, tested.stdout
    ran["its tests"] = re.findall(r"\d+ passed", tested.stdout)[-1]
    servers = [server for question, server in SERVERS.items() if question in parts]
    with running(
        python, project, tmp_path, [str(python) if word == "python" else word for server in servers for word in server]
    ) as service:
        service.ready()
        status = 404 if answers["example"] == "none" else 200 if answers["auth"] == "none" else 401
        wait_until(lambda: service.http.get("/readyz").is_success, "the service is ready")  # it has the keys of tokens
        assert service.http.get("/orders").status_code == status
        assert service.end() == 0  # and its servers end
    ran["answers"] = "ok"


def test_example_with_a_database_and_no_events_passes_its_checks(bake: Bake, install: Bake) -> None:
    """No row has both. The environment is that of a row, in which mypy knows the libraries."""
    project = bake(database="postgres")
    python = install(database="postgres", events="nats") / ".venv/bin/python"

    assert (project / "src/order_service/resources.py").exists()
    for command in CHECKS:
        check(project, python, command)


@pytest.mark.parametrize(("license", "package"), [("none", "private"), ("MIT", "public"), ("Apache-2.0", "private")])
def test_metadata_have_the_given_values(bake: Bake, license: str, package: str) -> None:  # noqa: A002 - the question's name
    project = bake(license=license, package=package, owner="acme")

    metadata = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    assert metadata.get("license", "none") == license
    assert ("Private :: Do Not Upload" in metadata.get("classifiers", [])) is (package == "private")
    if license == "none":
        return
    text = (project / "LICENSE").read_text()
    assert {"MIT": "Copyright (c) acme", "Apache-2.0": "Version 2.0, January 2004"}[license] in text
    built = run("uv", "build", "--quiet", "--wheel", cwd=project)
    assert built.returncode == 0, built.stdout


def test_service_without_example_is_otherwise_the_same_and_a_handler_can_be_begun(
    bake: Bake, installed: Path, python: Path, start: Start
) -> None:
    project = bake(example="none")
    app = project / "src/order_service/app.py"
    whole = (installed / "src/order_service/app.py").read_text().splitlines()
    changed = [line for line in ndiff(whole, app.read_text().splitlines()) if line[0] in "+-" and line[1:].strip()]
    allowed = r"[oO]rder|[cC]atalogue|store|add_problems|def create_app|\"\"\"Create the service"
    assert [line for line in changed if not re.search(allowed, line)] == []
    assert len([line for line in changed if line[0] == "+"]) == 3

    made = run(python, "scripts/handler.py", "invoices", cwd=project)
    assert made.returncode == 0, made.stdout
    check(project, python)
    assert start(project).ready().http.get("/invoices").json() == []


def test_summary_names_what_is_left_out(tmp_path: Path) -> None:
    command: list[str | Path] = ["cookiecutter", "--no-input", "-o", tmp_path, TEMPLATE]
    said_no = [f"{question}=none" for question, answers in OPTIONS.items() if "none" in answers]
    made = run(*command, *said_no, cwd=tmp_path).stdout

    assert "Generated Order Service in order-service/." in made
    assert (
        "Left out: a license, CI, a database, events, authentication, Kubernetes manifests, monitoring, the example."
        in made
    )
    assert made.endswith("\n    cd order-service\n    make run     # or: make check\n\n")
    everything = ("license=MIT", "database=postgres", "events=nats", "auth=jwt", "project_slug=other")
    assert "Left out" not in run(*command, *everything, cwd=tmp_path).stdout
