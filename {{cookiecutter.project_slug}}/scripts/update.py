"""Merges what the template has changed since this service was generated from it, or last updated.

    python scripts/update.py update [<tag, branch or commit>] [<question>=<answer> ...]
    python scripts/update.py tell

cruft does the work: it renders the template as it was then and as it is now, and applies the difference
as a three-way merge, so that what was edited here stays. What doesn't fit it leaves as conflict markers or
`.rej` files and ends with success; `update` looks afterwards, lists what is left to do, and fails until
nothing is. `tell` says whether the template has moved on, if that can be known without a network.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

NOTE = Path(".cruft.json")
# The core is the template's: an edit there is worth a warning.
CORE = "chassis/"


def output_of(*command: str | Path) -> str:
    """What a command prints; CalledProcessError if it fails."""
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout


def succeeds(*command: str) -> bool:
    """Whether a command ends with 0."""
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def cruft(*arguments: str) -> str:
    """The output of cruft, which must succeed."""
    command = [sys.executable, "-X", "utf8", "-m", "cruft", *arguments]
    done = subprocess.run(command, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{done.stdout}error: cruft {arguments[0]} failed; what it says is above")
    return done.stdout


def left_to_do() -> dict[str, str]:
    """What an update has left to a person: files with conflicts, and pieces of a patch that didn't fit."""
    unmerged = output_of("git", "diff", "--name-only", "--diff-filter=U", "--relative").splitlines()
    # Also in a file that was added with its markers still in it; git grep fails when it finds nothing.
    marked = ["git", "grep", "--untracked", "--name-only", "-E", "^(<{7}|>{7}) "]
    unmerged += subprocess.run(marked, check=False, capture_output=True, encoding="utf-8").stdout.splitlines()
    rejected = output_of("git", "ls-files", "--others", "--cached", "--", "*.rej").splitlines()
    left = dict.fromkeys(sorted(unmerged), "choose between <<<<<<< and >>>>>>>, then: git add")
    return left | dict.fromkeys(sorted(rejected), "apply by hand what it holds, then delete it")


def edited() -> set[str]:
    """Files that are not as the template renders them at the noted commit."""
    headers = (line.split(" ") for line in cruft("diff").splitlines() if line.startswith("diff --git "))
    return {header[-1].partition("/")[2] for header in headers}


def update(revision: str | None, answers: dict[str, str]) -> None:
    """Update, also to other answers, or say what is in the way."""
    if not NOTE.is_file():
        sys.exit("error: there is no .cruft.json; write one: uvx cruft link <the template's repository>")
    if not succeeds("git", "rev-parse", "--verify", "HEAD"):
        sys.exit("error: a merge needs the files as they were: git init, git add --all and git commit first")
    if left := left_to_do():
        sys.exit(listed("error: an update is not finished. Left to do:", left))
    if output_of("git", "status", "--porcelain", "."):
        sys.exit("error: commit or stash your changes first, so that they can be told from the template's")

    ours = edited()
    if core := {path: "edited here, though it is the template's" for path in sorted(ours) if path.startswith(CORE)}:
        print(listed("warning: your changes to these files are merged, and may conflict with every update:", core))
    before = NOTE.read_text(encoding="utf-8")
    options = ["--checkout", revision] if revision else []
    options += ["--variables-to-update", json.dumps(answers)] if answers else []
    cruft("update", "--skip-apply-ask", *options)
    if NOTE.read_text(encoding="utf-8") == before:
        print("The service is up to date with its template.")
        return

    left = left_to_do()
    if "pyproject.toml" in left:  # cruft reads its settings there, and would fail
        sys.exit(listed("The update is not finished. Left to do:", left))
    # What nobody edited must be as the template has it now, or its piece of the patch got lost.
    renamed = output_of("git", "diff", "HEAD", "--relative", "--find-renames", "--name-status", "--diff-filter=R")
    ours |= {new for _, old, new in (line.split("\t") for line in renamed.splitlines()) if old in ours}
    lost = sorted(edited() - ours - left.keys())
    left |= dict.fromkeys(lost, "is not as the template has it now; compare: cruft diff")
    if left:
        sys.exit(listed("The update is not finished. Left to do:", left))
    count = len(output_of("git", "status", "--porcelain", ".").splitlines())
    print(f"Updated: {count} files. Next: git diff HEAD, the template's CHANGELOG, make check, git commit.")


def listed(heading: str, remarks: dict[str, str]) -> str:
    """A heading, and below it a file and a remark a line."""
    return "\n".join([heading, *(f"  {path}: {remark}" for path, remark in remarks.items())])


def tell() -> None:
    """One line if a copy of the template on this machine has newer commits; nothing if that can't be known."""
    try:
        note: dict[str, Any] = json.loads(NOTE.read_text(encoding="utf-8"))
        template, commit = str(note["template"]), str(note["commit"])
        name = template.rstrip("/").rpartition("/")[2].removesuffix(".git")
        copy = Path(template) if Path(template).is_dir() else Path.home() / ".cookiecutters" / name
        git = ("git", "-C", copy)
        if copy != Path(template) and output_of(*git, "remote", "get-url", "origin").strip() != template:
            return
        newer = output_of(*git, "rev-list", "--count", f"{commit}..HEAD").strip()
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError):
        return
    if newer != "0":
        print(f"warning: the template has {newer} newer commits; to merge them: make update")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["tell"]:
            tell()
        case ["update", *words] if len(revision := [word for word in words if "=" not in word]) < 2:
            pairs = (word.partition("=") for word in words if "=" in word)
            update(revision[0] if revision else None, {question: answer for question, _, answer in pairs})
        case _:
            sys.exit(f"error: one of these was expected:\n{__doc__}")
