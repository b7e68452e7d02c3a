"""Merges the changes of the template since this service was generated or last updated.

    python scripts/update.py update [<tag, branch or commit, or ''> ['<question>=<answer> <question>=<answer> ...']]
    python scripts/update.py check
    python scripts/update.py tell
    python scripts/update.py address <clone of the template>

cruft renders the template at the old and at the new commit, and applies the difference as a three-way merge, so that
your changes stay. It leaves conflict markers or `.rej` files and still exits with 0. `update` lists these conflicts
and fails until you resolve them, and so does `check`. `tell` reports newer commits of the template, if a copy of it is
on this machine. `address` prints the address of a clone's remote without passwords and tokens.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

NOTE = Path(".cruft.json")
# The core belongs to the template: changes there get a warning.
CORE = "chassis/"
# `make settings` generates these.
GENERATED = ("docs/settings.md", ".env.example")
# All three markers of git in their order.
MARKERS = re.compile(r"^<{7} .*?^={7}\r?$.*?^>{7} ", re.MULTILINE | re.DOTALL)
# Calls a function of cruft in a process of its own, and prints an exception as one line.
CALL = """
import json, sys, cruft
name, options = json.loads(sys.argv[1])
try:
    sys.exit(not getattr(cruft, name)(**options))
except Exception as error:
    sys.exit("error: " + " ".join(str(error).split()))
"""


def output_of(*command: str | Path) -> str:
    """The output of a command; raises CalledProcessError if it fails."""
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout


def succeeds(*command: str) -> bool:
    """Whether a command is installed, and exits with 0."""
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def cruft(name: str, **options: object) -> str:
    """The output of a function of cruft; exits with one sentence if it fails."""
    # cookiecutter leaves a file in the folder of temporary files for each hook that it runs.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        done = subprocess.run(
            [sys.executable, "-X", "utf8", "-c", CALL, json.dumps((name, options))],
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            env={**os.environ, "TMPDIR": folder, "TEMP": folder, "TMP": folder},
        )
    if done.returncode:
        # A hook of the template names the value that it rejects; cruft names other reasons.
        reasons = [line.removeprefix("error: ") for line in done.stdout.splitlines() if line.startswith("error: ")]
        reason = reasons[0] if reasons else done.stdout.strip()
        sys.exit(f"error: the update failed: {reason}; check TO, SET, and the address of the template in {NOTE}")
    return done.stdout


def left_to_do() -> dict[str, str]:
    """Conflicts of an update: files with conflict markers, and rejected hunks of a patch."""
    unmerged = names_of("git", "diff", "--name-only", "--diff-filter=U", "--relative", "-z")
    # Also finds files that were added with markers in them. A document may quote one of the markers.
    marked = names_of("git", "grep", "--untracked", "--name-only", "-z", "-I", "-E", "^<{7} ")
    unmerged |= {path for path in marked if MARKERS.search(Path(path).read_text(encoding="utf-8", errors="replace"))}
    # Those that .gitignore ignores belong to others. The owner's own list of ignored files may have *.rej.
    rejected = names_of(
        "git", "ls-files", "--others", "--cached", "--exclude-per-directory=.gitignore", "-z", "--", "*.rej"
    )
    left = dict.fromkeys(sorted(unmerged), "combine the lines between <<<<<<< (yours) and >>>>>>>, then: git add")
    left |= dict.fromkeys(sorted(rejected), "apply its changes by hand, then delete it")
    # They are generated from settings.py, so they come last.
    generated = [path for path in GENERATED if path in left]
    return {path: remark for path, remark in left.items() if path not in generated} | dict.fromkeys(
        generated, "resolve the others, then: make settings; git add"
    )


def names_of(*command: str) -> set[str]:
    """The names of files that git prints with -z; empty if it finds none."""
    done = subprocess.run(command, check=False, capture_output=True, encoding="utf-8")
    return {name for name in done.stdout.split("\0") if name}


def untracked() -> set[str]:
    """Files that git does not know and does not ignore."""
    return names_of("git", "ls-files", "--others", "--exclude-standard", "-z")


def edited() -> set[str]:
    """Files that differ from the template at the commit in .cruft.json."""
    headers = (line.split(" ") for line in cruft("diff").splitlines() if line.startswith("diff --git "))
    return {header[-1].partition("/")[2] for header in headers}


def read_note() -> dict[str, Any]:
    """The content of .cruft.json; exits with an error if it is no JSON object."""
    try:
        note = json.loads(NOTE.read_text(encoding="utf-8"))
    except ValueError:
        note = None
    if not isinstance(note, dict):
        sys.exit(f"error: {NOTE} is not a JSON object; restore an earlier version: git log -- {NOTE}")
    return note


def render(note: dict[str, Any], folder: Path, revision: str | None, answers: dict[str, str]) -> Path:
    """Render the template at a revision, with other answers than in the note; returns the folder of the service."""
    known = {name: value for name, value in note["context"]["cookiecutter"].items() if not name.startswith("_")}
    source = {"template_git_url": note["template"], "checkout": revision, "directory": note.get("directory")}
    folder.mkdir()
    cruft("create", **source, output_dir=str(folder), extra_context=known | answers)
    return next(folder.iterdir())


def deleted_by_template(
    note: dict[str, Any], paths: set[str], revision: str | None, answers: dict[str, str]
) -> list[str]:
    """Those of these files that the update would delete, and not rename."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        new = render(note, Path(folder, "new"), revision, answers) if paths else Path()
        if all((new / path).is_file() for path in paths):
            return []
        old = render(note, Path(folder, "old"), note["commit"], {})
        compare = ["git", "diff", "--no-index", "--find-renames", "--name-status", "--diff-filter=D", "-z"]
        lines = subprocess.run([*compare, old, new], check=False, capture_output=True, encoding="utf-8").stdout
        deleted = {Path(name).relative_to(old).as_posix() for name in lines.split("\0")[1::2]}
    return sorted(paths & deleted)


@contextmanager
def left_out(paths: list[str]) -> Iterator[None]:
    """Hide files from git and cruft. If git cannot delete an edited file, it cannot merge any file of the patch."""
    if not paths:
        yield
        return
    output_of("git", "update-index", "--skip-worktree", "--", *paths)
    try:
        for path in paths:
            Path(path).unlink()
        yield
    finally:
        output_of("git", "update-index", "--no-skip-worktree", "--", *paths)
        output_of("git", "checkout", "--quiet", "HEAD", "--", *paths)


def updatable_note() -> dict[str, Any]:
    """The content of .cruft.json; exits with an error if an update is impossible."""
    link = "uvx cruft link <template repository>"
    if not NOTE.is_file():
        sys.exit(f"error: .cruft.json is missing; create it: {link}")
    if not succeeds("git", "rev-parse", "--verify", "HEAD"):
        sys.exit("error: the service has no commit; commit it first: git init; git add --all; git commit")
    if left := left_to_do():
        sys.exit(listed("error: the last update has unresolved conflicts; resolve them first:", left))
    # Files that are not under version control stay as they are, such as those of an editor.
    if output_of("git", "status", "--porcelain", "--untracked-files=no"):
        sys.exit("error: git status shows uncommitted changes; commit or stash them first")
    note = read_note()
    if missing := [name for name in ("template", "commit", "context") if not note.get(name)]:
        sys.exit(f"error: .cruft.json has no `{missing[0]}`; delete the file and create it: {link}")
    return note


def update(revision: str | None, answers: dict[str, str]) -> None:
    """Update, optionally with other answers; exits with an error if that is impossible."""
    note = updatable_note()
    ours = edited()
    unknown_to_git = untracked()
    deleted = deleted_by_template(note, ours, revision, answers)
    if core := {path: "changed here, but belongs to the template" for path in sorted(ours) if path.startswith(CORE)}:
        print(listed("warning: these changes may conflict with every update; move them out of chassis/:", core))
    with left_out(deleted):
        cruft("update", skip_apply_ask=True, allow_untracked_files=True, checkout=revision, extra_context=answers)
    if read_note() == note:
        print("The service is up to date with its template; nothing was changed.")
        return

    # So that `git diff` shows the new files, and `git commit --all` has them. git does that only if all merges succeed.
    if new := sorted(path for path in untracked() - unknown_to_git if not path.endswith(".rej")):
        output_of("git", "add", "--intent-to-add", "--", *new)
    known = read_note()["context"]["cookiecutter"]
    questions = [name for name in known if not name.startswith("_")]
    if unknown := answers.keys() - questions:
        print(f"warning: the template does not ask {', '.join(sorted(unknown))}; it asks: {', '.join(questions)}")
    left = left_to_do()
    left |= dict.fromkeys(deleted, "the template has deleted it, you have changed it; git rm it, or keep it")
    if "pyproject.toml" in left:  # cruft reads its settings there, and would fail on conflict markers
        stop(left)
    # A file without your changes must now equal the template's. Otherwise a hunk of the patch was lost.
    renamed = output_of("git", "diff", "HEAD", "--relative", "--find-renames", "--name-status", "--diff-filter=R")
    ours |= {new for _, old, new in (line.split("\t") for line in renamed.splitlines()) if old in ours}
    lost = sorted(edited() - ours - left.keys())
    left |= dict.fromkeys(lost, "differs from the template; compare: uvx cruft diff")
    if left:
        stop(left)
    count = len(output_of("git", "status", "--porcelain", "--untracked-files=no", ".").splitlines())
    print(f"Updated {count} files. Next: read the template's CHANGELOG; git diff HEAD; make check; git commit --all")


def answers_in(pairs: str) -> dict[str, str]:
    """The value for each question in the text. A value may have spaces: it ends where the next question begins."""
    found = [pair.partition("=") for pair in re.split(r"\s+(?=\w+=)", pairs.strip()) if pair]
    if wrong := [pair for pair, equals, _ in found if not (equals and pair.isidentifier())]:
        sys.exit(f"error: SET has {wrong[0]!r}, which is no answer; write SET='<question>=<answer>'")
    return {question: answer for question, _, answer in found}


def stop(left: dict[str, str]) -> NoReturn:
    """Exit with the list of conflicts. The note is staged, as git stages the files that it has merged."""
    succeeds("git", "add", "--", str(NOTE))
    sys.exit(listed("error: the update has conflicts; resolve them, then run `make check` and `git commit`:", left))


def check() -> None:
    """Exit with an error if the note has a password, or if conflicts are left in a git repository."""
    if succeeds("git", "rev-parse", "--is-inside-work-tree") and (left := left_to_do()):
        sys.exit(listed("error: these conflicts of `make update` are unresolved:", left))
    if NOTE.is_file() and (secrets := places_of_secrets(read_note())):
        wanted = ", ".join(f"{place}: {safe}" for place, safe in secrets.items())
        sys.exit(f"error: {NOTE} has a password or token; revoke it, and write instead: {wanted}")


def places_of_secrets(value: object, place: str = "") -> dict[str, str]:
    """The names of values that have a password or token, joined by dots, with the safe text."""
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        found = [places_of_secrets(item, f"{place}.{name}".lstrip(".")) for name, item in items]
        return {path: safe for places in found for path, safe in places.items()}
    # Only addresses of the template lose their query, because a description may have the address of a search.
    part = r"\S+" if place.endswith("template") else r"[^\s?]+"
    text = str(value)
    safe = re.sub(rf"[\w+.-]+://{part}", lambda address: without_credentials(address[0]), text)
    return {place: safe} if safe != text else {}


def listed(heading: str, remarks: dict[str, str]) -> str:
    """A heading, and one line for each file with its remark."""
    return "\n".join([heading, *(f"  {path}: {remark}" for path, remark in remarks.items())])


def without_credentials(address: str) -> str:
    """The address of a repository without passwords, and without a token in the place of the user or in the query."""
    scheme, separator, rest = address.partition("://")
    if not separator:  # a path, or git@host:path, which can have no password
        return address
    authority, slash, path = rest.partition("/")
    user, _, host = authority.rpartition("@")
    if "ssh" in scheme:
        login = user.partition(":")[0]
        return f"{scheme}://{login}@{host}{slash}{path}" if login else f"{scheme}://{host}{slash}{path}"
    return f"{scheme}://{host}{slash}{path.partition('?')[0] if 'http' in scheme else path}"


def address(clone: str | Path) -> str:
    """The address of a clone's remote, as others can use it; empty if there is none."""
    written = subprocess.run(
        ["git", "-C", clone, "config", "--get", "remote.origin.url"], check=False, capture_output=True, encoding="utf-8"
    ).stdout.strip()
    # As it is written, because git applies `url.<base>.insteadOf`, which people use to add a token of theirs. It is
    # applied only to what is an abbreviation of that kind: neither a URL, nor user@host:path or host.name:path.
    if written and not re.match(r"[\w+.:-]+://|[^/]*[@.][^/]*:", written):
        written = output_of("git", "-C", clone, "remote", "get-url", "origin").strip()
    return without_credentials(written)


def tell() -> None:
    """Print a warning if a copy of the template on this machine has newer commits; nothing if there is no copy."""
    try:
        note: dict[str, Any] = json.loads(NOTE.read_text(encoding="utf-8"))
        template, commit = str(note["template"]), str(note["commit"])
        name = template.rstrip("/").rpartition("/")[2].removesuffix(".git")
        copy = Path(template) if Path(template).is_dir() else Path.home() / ".cookiecutters" / name
        git = ("git", "-C", copy)
        if copy != Path(template) and address(copy) != template:
            return
        newer = output_of(*git, "rev-list", "--count", f"{commit}..HEAD").strip()
    except (OSError, ValueError, KeyError, subprocess.CalledProcessError):
        return
    if newer != "0":
        print(f"warning: the template has {newer} newer commits; merge them: make update")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["check"]:
            check()
        case ["tell"]:
            tell()
        case ["address", clone]:
            print(address(clone))
        case ["update", *options] if len(options) <= 2:
            revision, pairs = [*options, "", ""][:2]
            # Compiling the template's files takes a third of the time of each render.
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as compiled:
                os.environ.setdefault("CHASSIS_COMPILED_TEMPLATES", compiled)
                update(revision or None, answers_in(pairs))
        case _:
            sys.exit(f"error: expected one of these commands, got: {' '.join(sys.argv[1:])}\n{__doc__}")
