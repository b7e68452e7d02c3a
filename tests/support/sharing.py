"""Services that share the core, put together as chassis/docs/sharing-the-core.md says."""

import re
import shutil
from pathlib import Path

from bakery import TEMPLATE, copy_repository, render, run
from repositories import IDENTITY

GUIDE = (TEMPLATE / "chassis/docs/sharing-the-core.md").read_text()
# Of the default way, a folder, a workspace, a tag: as the table of the guide has them.
VENDORED, FOLDER, WORKSPACE, TAG = re.findall(r"`(asgi-chassis = \{.*\})`", GUIDE)
SKIP, MEMBERS = re.findall(r"```toml\n(.*?)```", GUIDE, re.DOTALL)


def git(folder: Path, *arguments: str) -> str:
    done = run("git", *arguments, cwd=folder, **IDENTITY)
    assert done.returncode == 0, done.stdout
    return done.stdout.strip()


def commit_all(folder: Path, message: str) -> str:
    """Commit everything in a folder, which becomes a repository if it is none; returns the commit."""
    if not (folder / ".git").exists():
        git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(folder, "rev-parse", "HEAD")


def template_repository(folder: Path) -> Path:
    """The working tree of the template as a repository with a tag."""
    copy_repository(folder)
    git(folder, "tag", "v1")
    return folder


def take_the_core_from(project: Path, source: str) -> None:
    """Change the line of pyproject.toml, and keep `make update` from the core."""
    file = project / "pyproject.toml"
    text = file.read_text()
    assert text.count(VENDORED) == 1
    file.write_text(f"{text.replace(VENDORED, source)}\n{SKIP}")


def services_that_share(folder: Path, source: str, *names: str, **answers: str) -> list[Path]:
    """Services in one repository with one folder of the core; `source` is a line of the README."""
    projects = []
    for name in names:
        project = folder / "services" / name
        shutil.move(render(folder.with_name(f"{folder.name}.{name}"), {**answers, "project_slug": name}), project)
        shutil.rmtree(project / ".git")  # it is a folder of another repository now
        if (folder / "libs/chassis").exists():
            shutil.rmtree(project / "chassis")
        else:
            (folder / "libs").mkdir()
            (project / "chassis").rename(folder / "libs/chassis")
        take_the_core_from(project, source)
        projects.append(project)
    if source == WORKSPACE:
        (folder / "pyproject.toml").write_text(MEMBERS)
    return projects


def service_at_a_tag(folder: Path, template: Path, tag: str = "v1", **answers: str) -> Path:
    """A service that takes the core from the repository of the template."""
    project = render(folder, answers)
    shutil.rmtree(project / "chassis")
    source = TAG.replace("https://github.com/acme/cookiecutter-chassis", template.as_uri())
    take_the_core_from(project, re.sub('tag = ".*?"', f'tag = "{tag}"', source))
    return project
