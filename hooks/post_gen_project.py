"""Copies the core, removes the files of other answers, writes .cruft.json, and prints the next commands."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

# A line of JSON inside a raw string: see pre_gen_project.py.
CONTEXT = r"""
{{ cookiecutter | tojson }}
"""


# The files of each choice. Files of other choices are removed.
CHOICES = {
    "ci": {
        "github": [".github", "scripts/propose.py", "scripts/propose_on_github.py"],
        "gitlab": [".gitlab-ci.yml", "scripts/propose.py", "scripts/propose_on_gitlab.py"],
    },
    # The component prometheus-rule contains the rules where there is one.
    "deploy": {"kustomize": ["deploy", ".github/workflows/kind.yml"], "none": ["monitoring/rules.yaml"]},
    "monitoring": {
        "included": [
            "monitoring",
            "docs/runbook.md",
            "deploy/components/pod-monitor",
            "deploy/components/prometheus-rule",
        ],
    },
    "example": {"orders": ["src/{package}/orders", "tests/test_orders.py"]},
}
# The name of each part that the choice "none" leaves out.
LEFT_OUT = {
    "license": "a license",
    "ci": "CI",
    "deploy": "Kubernetes manifests",
    "monitoring": "monitoring",
    "example": "the example",
}


def choose(context: dict[str, Any]) -> list[str]:
    """Remove the files of choices that were not made; returns the names of the parts that are left out."""
    for question, files in CHOICES.items():
        kept = files.get(context[question], [])
        for path in {path for paths in files.values() for path in paths}.difference(kept):
            remove(Path(path.format(package=context["__package"])))
    if context["license"] != "none":
        Path("licenses", context["license"]).rename("LICENSE")
    remove(Path("licenses"))
    return [word for question, word in LEFT_OUT.items() if context[question] == "none"]


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content. It may be removed already because of another choice."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def copy_core() -> None:
    """Copy chassis/ of the template into the service, with the script of the service."""
    command = [sys.executable, "scripts/vendor.py", "copy", os.environ["CHASSIS_TEMPLATE"], "--to=chassis"]
    if subprocess.run(command, check=False).returncode:
        sys.exit(1)


def git(folder: str, *arguments: str) -> str:
    """The output of git in a folder; raises OSError without git, and CalledProcessError outside of a repository."""
    said = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, encoding="utf-8", check=True)
    return said.stdout.strip()


def origin(context: dict[str, Any]) -> dict[str, Any]:
    """The content of .cruft.json: the template's repository and commit, and the answers."""
    called_in = Path(os.environ["CHASSIS_CALLED_IN"].partition(":")[2])
    folder = str(called_in / Path(context["_repo_dir"]).expanduser())
    commit = git(folder, "rev-parse", "HEAD")
    # The full address of a cloned template, because cruft cannot clone an abbreviation such as gh:.
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
    """Write .cruft.json; returns the reason if that is impossible, else None."""
    try:
        note = origin(context)
    except OSError:
        return "git is not installed"
    except subprocess.CalledProcessError:
        return "the template is not a git repository"
    text = json.dumps(note, ensure_ascii=False, indent=2) + "\n"
    Path(".cruft.json").write_text(text, encoding="utf-8", newline="\n")
    return None


if __name__ == "__main__":
    context = json.loads(CONTEXT)
    copy_core()
    left_out = choose(context)
    # cruft sets the commit and writes .cruft.json itself. It renders twice for an update, so this prints nothing then.
    if "_commit" not in context:
        reason = note_origin(context)
        slug = context["project_slug"]
        print(f"\nGenerated {context['project_name']} in {slug}/.")
        if left_out:
            print(f"Left out: {', '.join(left_out)}.")
        if reason is not None:
            print(f"warning: `make update` will not work: {reason}; link it: uvx cruft link <template repository>")
        print(f"\n    cd {slug}\n    make run     # or: make check\n")
