"""Exactly these files are rendered, for all values of the template's questions."""

import re
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from bakery import NOTE, OTHER, SOURCE, TEMPLATE, TOOLS, clean_environment, files_of, own_config, package_of, run
from conftest import Bake

# Values of GitHub's expressions and f-strings are no Jinja of ours.
JINJA = re.compile(r"(?<!\$)\{\{|\{%|\{#|\bcookiecutter\.")
PICTURES = {"chassis/docs/console.webp"}
# Templates of Prometheus and Grafana.
OF_OTHERS = {
    "deploy/components/prometheus-rule/prometheusrule.yaml": r"\{\{ \$\w[\w. |]* \}\}",
    "monitoring/grafana/service.json": r"\{\{\w+\}\}",
}
# Whole lines, which compare values of questions and do nothing else.
COMPARISON = r'cookiecutter\.\w+ [=!]= "\w+"'
CONDITION = re.compile(rf" *\{{%-? ((el)?if {COMPARISON}( and {COMPARISON})*|else|endif) -?%\}}")


def test_files_are_exactly_these(bake: Bake) -> None:
    rendered = (Path(__file__).parent / "rendered_files.txt").read_text().splitlines()
    core = [f"chassis/{path}" for path in (*files_of_core(), "SHA256SUMS")]

    assert files_of(bake()) == sorted([*rendered, *core, NOTE])


def files_of_core() -> list[str]:
    """The files of the core that services get: those under version control, without its tests."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=TEMPLATE / "chassis")
    paths = [path for path in listed.stdout.splitlines() if (TEMPLATE / "chassis" / path).is_file()]
    return [path for path in paths if not path.startswith("tests/")]


def test_skeleton_has_no_caches_and_no_builds() -> None:
    ignored = run("git", "ls-files", "--others", "--ignored", "--exclude-standard", cwd=SOURCE).stdout

    assert ignored == ""
    assert [path for path in files_of(SOURCE) if re.search(r"__pycache__|\.pyc$|^dist/|^build/|egg-info", path)] == []


def test_files_have_the_same_names_for_other_values(bake: Bake) -> None:
    ours = [path.replace("order_service", "size_7_co") for path in files_of(bake())]

    assert files_of(bake(**OTHER)) == sorted(ours)


@pytest.mark.parametrize("answers", [{}, OTHER], ids=["defaults", "others"])
def test_no_jinja_is_left(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)

    texts = {path: (project / path).read_text() for path in files_of(project) if path != NOTE and path not in PICTURES}
    for path, template in OF_OTHERS.items():
        assert re.search(template, texts[path])
        texts[path] = re.sub(template, "", texts[path])
    left = {path: JINJA.findall(text) for path, text in texts.items()}
    python = {path: found for path, found in left.items() if path.endswith(".py") and found != []}
    assert {path: found for path, found in left.items() if found and path not in python} == {}
    # In Python two braces are an f-string's; nothing else of Jinja looks like Python.
    assert set().union(*python.values()) <= {"{{"}


def test_only_app_and_settings_have_conditions_of_jinja_in_their_python() -> None:
    package = "src/{{cookiecutter.__package}}"
    controlled = {path: re.findall(r".*\{%.*", (SOURCE / path).read_text()) for path in python_of(SOURCE)}
    lines = {path: found for path, found in controlled.items() if found}

    assert set(lines) == {f"{package}/app.py", f"{package}/settings.py"}
    bases = [line for line in lines[f"{package}/settings.py"] if line.startswith("{% set bases = ")]
    assert len(bases) == 1  # each combination of parts would need a class statement of its own
    lines[f"{package}/settings.py"].remove(bases[0])
    assert [line for found in lines.values() for line in found if not CONDITION.fullmatch(line)] == []
    assert max(len(found) for found in lines.values()) <= 34
    assert [path for path in files_of(TEMPLATE / "hooks") if "{%" in (TEMPLATE / "hooks" / path).read_text()] == []


def test_only_the_packages_name_is_filled_into_python() -> None:
    filled = [text for path in python_of(SOURCE) for text in re.findall(r"\{\{.*?\}\}", (SOURCE / path).read_text())]

    assert {one for one in filled if "cookiecutter" in one} == {
        "{{ cookiecutter.__package }}",
        "{{ cookiecutter.database }}",  # the module of the core that app.py and resources.py import
    }


def python_of(folder: Path) -> list[str]:
    return [path for path in files_of(folder) if path.endswith(".py")]


def test_source_is_the_same_bytes_for_all_values(bake: Bake) -> None:
    ours, theirs = bake(), bake(**OTHER)
    for folder in ("chassis", "src/{}", ".github"):
        one, other = (project / folder.format(package_of(project)) for project in (ours, theirs))
        assert files_of(one) == files_of(other) != []
        # The package's own name aside, which __main__.py has.
        differing = [
            path
            for path in files_of(one)
            if (one / path).read_bytes() != (other / path).read_bytes().replace(b"size_7_co", b"order_service")
        ]
        assert differing == []


def test_toml_has_the_values_verbatim(bake: Bake) -> None:
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


@pytest.mark.parametrize("answers", [{}, OTHER], ids=["defaults", "others"])
def test_text_is_tidy(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    for path in set(files_of(project)) - PICTURES:
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
