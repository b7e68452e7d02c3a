"""Defaults of questions that git knows; cookiecutter loads it because `_extensions` in cookiecutter.json names it."""

import os
import re
import subprocess

from jinja2 import Environment
from jinja2.ext import Extension

NOBODY = "acme"
# git@github.com:owner/name.git, https://github.com/owner/name, ssh://git@github.com/owner/name
ON_GITHUB = re.compile(r"(?:[/@]|^)github\.com[:/]([A-Za-z0-9-]+)/")


class GitExtension(Extension):
    """Gives `git_owner()` to the questions, and CHASSIS_CALLED_IN to the hooks."""

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        environment.globals["git_owner"] = git_owner
        # Where cookiecutter was called: it runs hooks elsewhere, where a relative path of a template leads nowhere.
        # Once in a process, since it loads this again for the hooks; who called it may have set it as well.
        process = f"{os.getpid()}:"
        if not os.environ.get("CHASSIS_CALLED_IN", "").startswith(process):
            os.environ["CHASSIS_CALLED_IN"] = process + os.getcwd()


def git_owner() -> str:
    """The GitHub name of whoever makes the service here.

    That of the repository's remote, where the service becomes a folder of a repository; else what
    `git config github.user` says; else a name that stands for nobody.
    """
    found = ON_GITHUB.search(said("remote", "get-url", "origin"))
    name = found[1] if found else said("config", "github.user")
    return name if re.fullmatch("[A-Za-z0-9]([A-Za-z0-9-]{0,37}[A-Za-z0-9])?", name) else NOBODY


def said(*arguments: str) -> str:
    """What git says here; nothing if it has nothing to say, or isn't there."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""
