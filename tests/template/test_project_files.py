"""Files for editors, people and platforms: they fit the service, and name nothing that is not there."""

import configparser
import json
import re
from fnmatch import fnmatch
from pathlib import Path

import pytest
from dotenv import dotenv_values

from bakery import OTHER, SOURCE, files_of, run
from conftest import Bake


@pytest.fixture(scope="module")
def project(installed: Path) -> Path:
    """The default service."""
    return installed


def rules_of(project: Path, path: str) -> dict[str, str]:
    """The values of .editorconfig for a file; later sections win."""
    parser = configparser.ConfigParser()
    parser.read_string("[top]\n" + (project / ".editorconfig").read_text())
    rules: dict[str, str] = {}
    for pattern in parser.sections()[1:]:
        braces = re.fullmatch(r"(.*)\{(.*)\}", pattern)
        patterns = [braces[1] + one for one in braces[2].split(",")] if braces else [pattern]
        if any(fnmatch(Path(path).name, one) for one in patterns):
            rules |= dict(parser[pattern])
    return rules


def test_files_are_as_editorconfig_says(project: Path, bake: Bake) -> None:
    service = bake()
    for path in (one for one in files_of(service) if not one.startswith(("chassis/", "monitoring/grafana/"))):
        rules = rules_of(project, path)
        lines = (service / path).read_bytes().decode(rules["charset"]).splitlines()
        assert {"end_of_line": "lf", "insert_final_newline": "true"}.items() <= rules.items()
        indents = [len(line) - len(line.lstrip(" ")) for line in lines]
        if path.endswith(("Makefile", ".mk")):
            assert rules["indent_style"] == "tab"
        elif path.endswith((".yml", ".yaml", ".json")):
            assert rules["indent_size"] == "2"
            assert [indent for indent in indents if indent % 2] == [], path
        if path.endswith(".py"):
            assert max(map(len, lines), default=0) <= int(rules["max_line_length"]), path


@pytest.mark.parametrize(("answers", "owner"), [({}, "acme"), (OTHER, "Some-One")], ids=["defaults", "others"])
def test_code_owners_are_the_owner(bake: Bake, answers: dict[str, str], owner: str) -> None:
    lines = (bake(**answers) / "CODEOWNERS").read_text().splitlines()

    assert [line for line in lines if not line.startswith("#")] == [f"* @{owner}"]


@pytest.mark.parametrize("answers", [{}, OTHER], ids=["defaults", "others"])
def test_dev_container_installs_the_service(bake: Bake, answers: dict[str, str]) -> None:
    project = bake(**answers)
    container = json.loads((project / ".devcontainer/devcontainer.json").read_text())

    assert container["name"] == project.name
    assert container["postCreateCommand"] == "make install"
    assert container["forwardPorts"] == [8000]
    assert container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"] == ".venv/bin/python"


def test_env_example_has_each_setting_with_its_default(project: Path, python: Path, tmp_path: Path) -> None:
    """With all of them switched on, the service has the settings that it has without."""
    example = (project / ".env.example").read_text()
    (tmp_path / ".env").write_text(re.sub("^#(?=APP_)", "", example, flags=re.MULTILINE))
    assert len(dotenv_values(tmp_path / ".env")) > 25

    script = "from order_service.settings import Settings; print(Settings())"
    shown = [
        run(python, "-c", script, cwd=folder, PYTHONPATH=str(project / "src")).stdout for folder in (tmp_path, project)
    ]

    assert shown[0] == shown[1]
    assert "max_orders=1000" in shown[0]


def test_group_of_tools_that_agents_must_not_edit_exists(project: Path) -> None:
    (group,) = re.findall(r"the group `(\w+)`", (project / "AGENTS.md").read_text())

    assert f"\n{group} = [\n" in (project / "pyproject.toml").read_text()


def test_skeleton_is_ignored_by_git_as_a_service_ignores_it() -> None:
    """A template in an editor has the same files as a service in one, and they must not be rendered."""
    for name in (".idea/x", ".vscode/x", ".DS_Store"):
        assert run("git", "check-ignore", "--quiet", name, cwd=SOURCE).returncode == 0, name
