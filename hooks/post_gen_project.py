"""Copies the core in, removes the files of other answers, notes where the service comes from, says what is next."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

# A line of JSON inside a raw string, for the reason that the other hook gives.
CONTEXT = r"""
{{ cookiecutter | tojson }}
"""


# The files of each answer; those of the others go.
CHOICES = {
    "ci": {"github": [".github"], "gitlab": [".gitlab-ci.yml"]},
    "deploy": {"kubernetes": ["deploy", ".github/workflows/kind.yml"]},
    "monitoring": {
        "included": ["monitoring", "deploy/components/pod-monitor", "deploy/components/prometheus-rule"],
    },
    "example": {"orders": ["src/{package}/orders", "tests/test_orders.py"]},
}
# How what an answer of "none" leaves out is called.
LEFT_OUT = {
    "license": "a licence",
    "ci": "CI",
    "deploy": "Kubernetes manifests",
    "monitoring": "monitoring",
    "example": "the example",
}


def choose(context: dict[str, Any]) -> list[str]:
    """Remove the files of answers that were not given; returns what is left out, in words."""
    for question, files in CHOICES.items():
        for answer, paths in files.items():
            if answer != context[question]:
                for path in paths:
                    remove(Path(path.format(package=context["__package"])))
    if context["license"] != "none":
        Path("licenses", context["license"]).rename("LICENSE")
    remove(Path("licenses"))
    return [word for question, word in LEFT_OUT.items() if context[question] == "none"]


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; it may have gone with another answer."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def copy_core() -> None:
    """Copy chassis/ of the template into the service, by the script that the service itself has for it."""
    command = [sys.executable, "scripts/vendor.py", "copy", os.environ["CHASSIS_TEMPLATE"], "--to=chassis"]
    if subprocess.run(command, check=False).returncode:
        sys.exit(1)


def git(folder: str, *arguments: str) -> str:
    """What git says of a folder; OSError or CalledProcessError if there is no git, or it isn't a repository."""
    said = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, encoding="utf-8", check=True)
    return said.stdout.strip()


def origin(context: dict[str, Any]) -> dict[str, Any]:
    """The content of .cruft.json: the template's repository and commit, and the answers."""
    called_in = Path(os.environ["CHASSIS_CALLED_IN"].partition(":")[2])
    folder = str(called_in / Path(context["_repo_dir"]).expanduser())
    commit = git(folder, "rev-parse", "HEAD")
    # Of a template that was fetched, its address in full: cruft can't clone an abbreviation such as gh:.
    local = (called_in / Path(context["_template"]).expanduser()).is_dir()
    template = git(folder, "rev-parse", "--show-toplevel") if local else git(folder, "remote", "get-url", "origin")
    answers = {name: value for name, value in context.items() if not name.startswith("_")}
    return {
        "template": template,
        "commit": commit,
        "checkout": context.get("_checkout"),
        "context": {"cookiecutter": {**answers, "_template": template, "_commit": commit}},
        "directory": git(folder, "rev-parse", "--show-prefix").rstrip("/") or None,
    }


def note_origin(context: dict[str, Any]) -> str | None:
    """Write .cruft.json; why it couldn't be written, or None."""
    try:
        note = origin(context)
    except OSError:
        return "git is not installed"
    except subprocess.CalledProcessError:
        return "the template is no git repository"
    text = json.dumps(note, ensure_ascii=False, indent=2) + "\n"
    Path(".cruft.json").write_text(text, encoding="utf-8", newline="\n")
    return None


if __name__ == "__main__":
    context = json.loads(CONTEXT)
    copy_core()
    left_out = choose(context)
    # cruft, which knows the commit, writes the note itself, and renders twice for an update: nothing to say then.
    if "_commit" not in context:
        reason = note_origin(context)
        slug = context["project_slug"]
        print(f"\n{context['project_name']} is in {slug}/: a service with its tests.")
        if left_out:
            print(f"Left out: {', '.join(left_out)}.")
        if reason is not None:
            print(f"It can't follow its template by `make update`, since {reason}.")
        print(f"\n    cd {slug}\n    make run     # or: make check\n")
