"""Notes where the service comes from, so that it can follow its template, and says what to do next."""

import json
import subprocess
from pathlib import Path
from typing import Any

# A line of JSON inside a raw string, for the reason that the other hook gives.
CONTEXT = r"""
{{ cookiecutter | tojson }}
"""


def git(folder: str, *arguments: str) -> str:
    """What git says of a folder; OSError or CalledProcessError if there is no git, or it isn't a repository."""
    said = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
    return said.stdout.strip()


def origin(context: dict[str, Any]) -> dict[str, Any]:
    """The content of .cruft.json: the template's repository and commit, and the answers."""
    folder = context["_repo_dir"]
    commit = git(folder, "rev-parse", "HEAD")
    # Of a template that was fetched, its address in full: cruft can't clone an abbreviation such as gh:.
    local = Path(context["_template"]).expanduser().is_dir()
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
    Path(".cruft.json").write_text(json.dumps(note, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return None


if __name__ == "__main__":
    context = json.loads(CONTEXT)
    # cruft, which knows the commit, writes the file itself, and renders twice for an update: nothing to say then.
    if "_commit" not in context:
        reason = note_origin(context)
        slug = context["project_slug"]
        print(f"\nA service is in {slug}/. Next:\n\n    cd {slug}\n    make run     # or: make check\n")
        if reason is not None:
            print(f"It can't follow its template, since {reason}: `make update` will have nothing to go by.\n")
