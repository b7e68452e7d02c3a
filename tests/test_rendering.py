"""What is rendered: these files, with nothing left over, whatever the answers."""

import re
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from bakery import NOTE, SOURCE, TEMPLATE, TOOLS, clean_environment, files_of, own_config, package_of
from conftest import Bake

OTHER = {
    "project_name": "Größe & \"Co\" 'x' \\ <b>",
    "project_slug": "size-7-co",
    "description": "Says \"size\" \\n 'x' {braces} 🚀 #1 | ok: yes",
    "owner": "Some-One",
    "python_version": "3.13",
}
# Values of GitHub's expressions and f-strings are no Jinja of ours.
JINJA = re.compile(r"(?<!\$)\{\{|\{%|\{#|cookiecutter\b")


def test_files_are_exactly_these(bake: Bake) -> None:
    rendered = (Path(__file__).parent / "rendered_files.txt").read_text().splitlines()

    assert files_of(bake()) == sorted([*rendered, NOTE])


def test_files_have_the_same_names_for_other_answers(bake: Bake) -> None:
    ours = [path.replace("order_service", "size_7_co") for path in files_of(bake())]

    assert files_of(bake(**OTHER)) == sorted(ours)


@pytest.mark.parametrize("answers", [{}, OTHER], ids=["defaults", "others"])
def test_no_jinja_is_left(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)

    left = {path: JINJA.findall((project / path).read_text()) for path in files_of(project) if path != NOTE}
    python = {path: found for path, found in left.items() if path.endswith(".py") and found != []}
    assert {path: found for path, found in left.items() if found and path not in python} == {}
    # In Python two braces are an f-string's; nothing else of Jinja looks like Python.
    assert set().union(*python.values()) <= {"{{"}


def test_no_python_of_the_template_is_controlled_by_jinja() -> None:
    controlled = [path for path in files_of(TEMPLATE / "hooks") if "{%" in (TEMPLATE / "hooks" / path).read_text()]
    controlled += [path for path in files_of(SOURCE) if path.endswith(".py") and "{%" in (SOURCE / path).read_text()]
    below_src = [path for path in files_of(SOURCE / "src") if "cookiecutter." in (SOURCE / "src" / path).read_text()]

    assert controlled == []
    assert below_src == []


def test_source_is_the_same_bytes_for_any_answers(bake: Bake) -> None:
    ours, theirs = bake(), bake(**OTHER)
    for folder in ("src/{}/chassis", "src/{}", ".github"):
        one = ours / folder.format(package_of(ours))
        other = theirs / folder.format(package_of(theirs))
        assert files_of(one) == files_of(other) != []
        for path in files_of(one):
            assert (one / path).read_bytes() == (other / path).read_bytes()


def test_toml_holds_the_answers_verbatim(bake: Bake) -> None:
    document = tomllib.loads((bake(**OTHER) / "pyproject.toml").read_text())

    assert document["project"]["name"] == OTHER["project_slug"]
    assert document["project"]["description"] == OTHER["description"]
    assert document["project"]["requires-python"] == ">=3.13"
    assert document["project"]["scripts"] == {"size-7-co": "size_7_co.__main__:main"}


def test_yaml_is_yaml(bake: Bake) -> None:
    project = bake(**OTHER)
    documents = [project / path for path in files_of(project) if path.endswith((".yml", ".yaml"))]

    assert documents
    for path in documents:
        assert all(isinstance(one, dict) for one in yaml.safe_load_all(path.read_text()))


def test_workflows_pin_actions_and_grant_nothing_by_default() -> None:
    workflows = [*TEMPLATE.glob(".github/workflows/*.yml"), *SOURCE.glob(".github/workflows/*.yml")]

    assert len(workflows) >= 2
    for path in workflows:
        text = path.read_text()
        used = re.findall(r"uses: (.*)", text)
        assert [one for one in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one)] == []
        workflow = yaml.safe_load(text)
        assert workflow["permissions"] == {}
        assert workflow["concurrency"]
        assert all(job["timeout-minutes"] and "permissions" in job for job in workflow["jobs"].values())


@pytest.mark.parametrize("answers", [{}, OTHER], ids=["defaults", "others"])
def test_text_is_tidy(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    for path in files_of(project):
        text = (project / path).read_bytes().decode()
        assert "\r" not in text, path
        assert not re.search(r"[ \t]+$", text, re.MULTILINE), path
        assert text == "" or (text.endswith("\n") and not text.endswith("\n\n")), path
        assert not text.startswith("\n"), path
        assert path.endswith(("Makefile", ".mk")) or "\t" not in text, path


def test_rendering_needs_no_network(tmp_path: Path) -> None:
    offline = tmp_path / "offline"
    offline.mkdir()
    # Loaded by every Python that is started below, hooks included.
    (offline / "sitecustomize.py").write_text(
        "import sys\n"
        "def refuse(event, arguments):\n"
        "    if event in ('socket.connect', 'socket.getaddrinfo', 'socket.sendto'):\n"
        "        raise RuntimeError(f'network: {event}')\n"
        "sys.addaudithook(refuse)\n"
    )
    environment = clean_environment(tmp_path, PYTHONPATH=str(offline))
    asking = [sys.executable, "-c", f"import socket; socket.create_connection(('127.0.0.1', {free_port()}))"]
    refused = subprocess.run(asking, env=environment, capture_output=True, text=True, check=False)
    assert "network: socket." in refused.stderr

    out = tmp_path / "out"
    command: list[str | Path] = [
        TOOLS / "cookiecutter",
        "--no-input",
        "--config-file",
        own_config(out),
        "-o",
        out,
        TEMPLATE,
    ]
    began = time.monotonic()
    rendered = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(f"rendered in {time.monotonic() - began:.2f} s")

    assert rendered.returncode == 0, rendered.stdout + rendered.stderr
    assert "cd order-service\n    make run" in rendered.stdout
    assert (out / "order-service/README.md").exists()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
