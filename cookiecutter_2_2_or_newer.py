"""Gives the questions and hooks two values that cookiecutter lacks: the owner's GitHub name and the template's folder.

cookiecutter loads it because `_extensions` in cookiecutter.json names it. cookiecutter 1 cannot load extensions of a
template, and runs nothing else of it before. It prints the name of the missing module, so the name says what to do.
"""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

from jinja2 import Environment, FileSystemBytecodeCache
from jinja2.ext import Extension

# cookiecutter 2.2 is the first that tells hooks the folder of the template. The hooks are written for Python 3.10.
NEEDED = (
    "error: the template needs {} or newer; install uv and run: uvx --python 3.13 cookiecutter <template repository>"
)
if sys.version_info < (3, 10):  # noqa: UP036 - the Python of cookiecutter may be older than that of the template
    sys.exit(NEEDED.format("Python 3.10"))

from importlib.metadata import version  # noqa: E402 - older versions of Python have none

if tuple(map(int, re.findall(r"\d+", version("cookiecutter"))[:2])) < (2, 2):
    sys.exit(NEEDED.format("cookiecutter 2.2"))

NOBODY = "acme"
# git@github.com:owner/name.git, https://github.com/owner/name, ssh://git@github.com/owner/name
ON_GITHUB = re.compile(r"(?:[/@]|^)github\.com[:/]([A-Za-z0-9-]+)/")


class TemplateExtension(Extension):
    """Gives `git_owner()` to the questions, and CHASSIS_CALLED_IN and CHASSIS_TEMPLATE to the hooks."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.globals["git_owner"] = git_owner
        # The current folder of the user. Hooks run in another folder, where a relative path of the template is wrong.
        # Set once per process, because cookiecutter loads this extension again for the hooks.
        process = f"{os.getpid()}:"
        if not os.environ.get("CHASSIS_CALLED_IN", "").startswith(process):
            os.environ["CHASSIS_CALLED_IN"] = process + os.getcwd()
        os.environ["CHASSIS_TEMPLATE"] = str(template_folder())
        # scripts/update.py of the service sets it, because an update renders the same files up to six times.
        if folder := os.environ.get("CHASSIS_COMPILED_TEMPLATES"):
            environment.bytecode_cache = FileSystemBytecodeCache(folder)
        # cookiecutter 2.7 logs a traceback of itself when a hook rejects a value. The hook has printed the reason.
        logging.getLogger("cookiecutter.hooks").addFilter(without_traceback)


def without_traceback(record: logging.LogRecord) -> bool:
    """Remove the traceback of a log record, and keep the record."""
    record.exc_info = None
    return True


def template_folder() -> Path:
    """The folder of the template that is being rendered.

    cookiecutter and cruft append it to `sys.path`. One process may render several templates, or several copies of
    one, and imports this module only from the first of them.
    """
    for entry in reversed(sys.path):
        folder = Path(entry).absolute()
        if (folder / "cookiecutter.json").is_file() and (folder / "chassis/pyproject.toml").is_file():
            return folder
    return Path(__file__).absolute().parent


def git_owner() -> str:
    """The default of the question for the owner.

    The owner of the git remote if the service is generated inside a repository; else the value of
    `git config github.user`; else a placeholder.
    """
    remote = ON_GITHUB.search(output_of_git("remote", "get-url", "origin"))
    name = remote[1] if remote else output_of_git("config", "github.user")
    return name if re.fullmatch("[A-Za-z0-9]([A-Za-z0-9-]{0,37}[A-Za-z0-9])?", name) else NOBODY


def output_of_git(*arguments: str) -> str:
    """The output of git; empty if git has none, or is not installed."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, encoding="utf-8", check=False).stdout.strip()
    except OSError:
        return ""
