"""Generation with old programs, and into a git repository, a monorepo, a uv workspace and odd paths."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from bakery import TEMPLATE, TOOLS, own_config, run
from conftest import Bake
from repositories import IDENTITY, Repository

GUIDE = "chassis/docs/sharing-the-core.md"
NEEDED = (
    "error: the template needs {} or newer; install uv and run: uvx --python 3.13 cookiecutter <template repository>\n"
)


def generate(template: Path, out: Path, *answers: str, **variables: str) -> str:
    command = ("cookiecutter", "--no-input", "--config-file", own_config(out), "-o", out, template)
    made = run(*command, *answers, cwd=out.parent, **variables)
    assert made.returncode == 0, made.stdout
    return made.stdout


def of_version(version: str, out: Path) -> tuple[int, str]:
    """Generate with a version of cookiecutter; returns its exit status and output."""
    command = ("uv", "tool", "run", "--quiet", "--from", f"cookiecutter=={version}", "--with=setuptools<81")
    made = run(
        *command, "cookiecutter", "--no-input", "--config-file", own_config(out), "-o", out, TEMPLATE, cwd=TEMPLATE
    )
    return made.returncode, made.stdout


def test_cookiecutter_1_fails_with_the_needed_version(tmp_path: Path) -> None:
    """Debian 12 and Ubuntu 22.04 have it. It loads no code of a template, so the name of the module says it."""
    said = "Unable to load extension: No module named 'cookiecutter_2_2_or_newer'\n"
    assert of_version("1.7.3", tmp_path / "out") == (1, said)


def test_cookiecutter_2_1_fails_with_the_needed_version(tmp_path: Path) -> None:
    assert of_version("2.1.1", tmp_path / "out") == (1, NEEDED.format("cookiecutter 2.2"))


def test_oldest_cookiecutter_that_is_allowed_generates_a_service(tmp_path: Path) -> None:
    assert of_version("2.2.0", tmp_path / "out")[0] == 0
    assert (tmp_path / "out/order-service/chassis/SHA256SUMS").exists()


def test_old_python_fails_with_the_needed_version() -> None:
    script = "import sys; sys.version_info = (3, 9); import cookiecutter_2_2_or_newer"
    said = run(sys.executable, "-c", script, cwd=TEMPLATE)

    assert (said.returncode, said.stdout) == (1, NEEDED.format("Python 3.10"))


def test_replay_with_a_value_that_is_no_longer_offered_is_rejected(tmp_path: Path, small_template: Path) -> None:
    out = tmp_path / "out"
    generate(small_template, out)
    (replay,) = (tmp_path / "out.cookiecutter/replay").glob("*.json")
    replay.write_text(replay.read_text().replace('"license": "none"', '"license": "GPL"'))

    command = ("cookiecutter", "--replay", "--config-file", own_config(out), "-o", tmp_path / "again", small_template)
    said = run(*command, cwd=tmp_path).stdout

    assert "error: license 'GPL' is not offered; choose one of: none, MIT, Apache-2.0\n" in said
    assert "Traceback" not in said


def test_service_is_a_git_repository_without_a_commit(tmp_path: Path, small_template: Path) -> None:
    said = generate(small_template, tmp_path / "out", GIT_CONFIG_GLOBAL="/dev/null")

    service = Repository(tmp_path / "out/order-service")
    assert service.git("rev-parse", "--show-toplevel") == str(service.folder)
    assert service.git("symbolic-ref", "HEAD") == "refs/heads/main"
    assert service.git("for-each-ref") == ""
    assert "note: " not in said
    # Everything is to be committed, and nothing else.
    assert "?? .cruft.json" in service.git("status", "--porcelain").splitlines()


def test_first_branch_has_the_name_that_the_user_has_configured(tmp_path: Path, small_template: Path) -> None:
    (tmp_path / "gitconfig").write_text("[init]\n\tdefaultBranch = trunk\n")
    generate(small_template, tmp_path / "out", GIT_CONFIG_GLOBAL=str(tmp_path / "gitconfig"))

    assert Repository(tmp_path / "out/order-service").git("symbolic-ref", "HEAD") == "refs/heads/trunk"


def test_service_is_generated_without_git(tmp_path: Path, small_template: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "python").symlink_to(sys.executable)
    command = (TOOLS / "cookiecutter", "--no-input", "--config-file", own_config(tmp_path / "out"), small_template)

    made = run(*command, cwd=tmp_path, PATH=str(programs))

    assert made.returncode == 0, made.stdout
    assert "warning: `make update` will not work: git is not installed; install it, then link it: " in made.stdout
    assert not (tmp_path / "order-service/.git").exists()


@pytest.mark.parametrize(("ci", "files"), [("github", ".github/"), ("gitlab", ".gitlab-ci.yml"), ("none", None)])
def test_service_in_a_monorepo_has_no_repository_of_its_own_and_a_note_about_ci(
    tmp_path: Path, small_template: Path, ci: str, files: str | None
) -> None:
    Repository(tmp_path).init()

    said = generate(small_template, tmp_path / "services", f"ci={ci}")

    assert not (tmp_path / "services/order-service/.git").exists()
    notes = [line for line in said.splitlines() if line.startswith("note: ")]
    told = f"{files} has no effect in services/order-service/, only at the top; move it: see {GUIDE}#ci-in-a-monorepo"
    assert notes == ([f"note: {told}"] if files else [])


def test_workflows_of_a_service_can_be_moved_to_the_top_of_a_monorepo(tmp_path: Path) -> None:
    """By the commands of the guide."""
    monorepo = Repository(tmp_path / "monorepo")
    monorepo.folder.mkdir()
    monorepo.init()
    generate(TEMPLATE, monorepo.path("services"))
    service = monorepo.path("services/order-service")
    section = (TEMPLATE / GUIDE).read_text().partition("\n## CI in a monorepo\n")[2].partition("\n## ")[0]
    commands = section.partition("```sh\n")[2].partition("```")[0]

    monorepo.commit("Generated")
    moved = run("sh", "-ec", commands, cwd=service, **IDENTITY)

    assert moved.returncode == 0, moved.stdout
    workflow = yaml.safe_load(monorepo.read(".github/workflows/order-service-checks.yml"))
    assert workflow["name"] == "order-service checks"  # each service needs a group of its own for `concurrency`
    assert workflow["defaults"] == {"run": {"working-directory": "services/order-service"}}
    assert not (service / ".github/workflows/checks.yml").exists()
    image = monorepo.read(".github/workflows/order-service-image.yml")
    assert yaml.safe_load(image)[True]["push"]["tags"] == ["order-service-v*"]  # YAML reads `on` as true
    assert 'echo "version=${TAG#order-service-v}"' in image
    assert "\nTAG_PREFIX := order-service-v\n" in (service / "Makefile").read_text()


def test_service_in_a_workspace_has_a_note_about_the_core(tmp_path: Path, small_template: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[tool.uv.workspace]\nmembers = ["services/*"]\n')

    said = generate(small_template, tmp_path / "services")

    assert f"note: members of the uv workspace {tmp_path} must share one core: see {GUIDE}#a-uv-workspace\n" in said


def test_uv_in_a_folder_with_spaces_is_used(tmp_path: Path, bake: Bake) -> None:
    programs = tmp_path / "my programs"
    programs.mkdir()
    (programs / "uv").symlink_to(shutil.which("uv", path=str(TOOLS)) or "uv")
    project = bake()
    made = run("make", "contexts", cwd=project, PATH=f"{programs}:/usr/bin:/bin")

    assert made.returncode == 0, made.stdout
    assert not (project / ".uv").exists()
    assert json.loads((project / ".cruft.json").read_text())
