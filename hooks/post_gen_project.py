"""Copies the core, removes files of other answers, writes .cruft.json, creates a git repository, says what is next."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import unquote

# A line of JSON inside a raw string: see pre_gen_project.py.
CONTEXT = r"""
{{ cookiecutter | tojson }}
"""


OF_BOTH = ["deploy/README.md", "deploy/deploy.mk", "deploy/kind.py", "deploy/shared.py", ".github/workflows/kind.yml"]
# The example with a database and events.
OF_OUTBOX = [
    "src/{package}/migrations/versions/0003_outbox.py",
    "src/{package}/orders/outbox_store.py",
    "src/{package}/outbox",
]
WITH_DATABASE = [
    *OF_OUTBOX,
    "src/{package}/tables.py",
    "src/{package}/migrations",
    "src/{package}/orders/tables.py",
    "tests/test_migrations.py",
    "tests/test_orders_in_database.py",
    "deploy/base/migration.yaml",
    "deploy/base/networkpolicy-database.yaml",
    "deploy/components/postgres",
    "deploy/chart/templates/_database.tpl",
    "deploy/chart/templates/migration.yaml",
    "deploy/chart/templates/networkpolicy-database.yaml",
    "deploy/chart/templates/postgres.yaml",
]
# The files of each choice. Files of other choices are removed.
CHOICES = {
    "ci": {
        "github": [".github", "scripts/propose.py", "scripts/propose_on_github.py"],
        "gitlab": [".gitlab-ci.yml", "scripts/propose.py", "scripts/propose_on_gitlab.py"],
    },
    "database": {
        "postgres": [*WITH_DATABASE, "src/{package}/orders/postgres_store_postgres.py"],
        "sqlalchemy": [*WITH_DATABASE, "src/{package}/orders/postgres_store_sqlalchemy.py"],
    },
    "events": {
        "nats": [
            "deploy/base/networkpolicy-nats.yaml",
            "deploy/components/nats",
            "deploy/chart/templates/nats.yaml",
            "deploy/chart/templates/networkpolicy-nats.yaml",
            "src/{package}/orders/events.py",
            *OF_OUTBOX,
            "tests/test_order_events.py",
        ],
    },
    "auth": {
        "jwt": [
            "deploy/base/networkpolicy-login.yaml",
            "deploy/chart/templates/networkpolicy-login.yaml",
            "tests/test_access.py",
        ],
    },
    "deploy": {
        "kustomize": [*OF_BOTH, "deploy/base", "deploy/components", "deploy/overlays", "deploy/deploy.py"],
        "helm": [*OF_BOTH, "deploy/chart", "deploy/helm.py", "deploy/values-dev.yaml", "deploy/values-production.yaml"],
        # The manifests contain the rules where there are manifests.
        "none": ["monitoring/rules.yaml"],
    },
    "monitoring": {
        "included": [
            "monitoring",
            "docs/runbook.md",
            "deploy/components/pod-monitor",
            "deploy/components/prometheus-rule",
            "deploy/chart/rules.yaml",
            "deploy/chart/templates/podmonitor.yaml",
            "deploy/chart/templates/prometheusrule.yaml",
        ],
    },
    "example": {
        "orders": [
            *OF_OUTBOX,
            "tests/test_access.py",
            "src/{package}/orders",
            "src/{package}/migrations/versions/0002_orders.py",
            "tests/test_orders.py",
            "tests/test_order_events.py",
            "tests/test_orders_in_database.py",
        ]
    },
}
# The name of each part that the choice "none" leaves out.
LEFT_OUT = {
    "license": "a license",
    "ci": "CI",
    "database": "a database",
    "events": "events",
    "auth": "authentication",
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
    if context["database"] == context["events"] == "none":
        remove(Path("compose.yaml"))
    if context["license"] != "none":
        Path("licenses", context["license"]).rename("LICENSE")
    # One file for each database, with the same name in the service.
    for store in Path("src").glob(f"*/orders/postgres_store_{context['database']}.py"):
        store.rename(store.with_name("postgres_store.py"))
    # One file for each combination of resources that the example uses.
    parts = [question for question in ("database", "events") if context[question] != "none"]
    for file in Path("src").glob("*/resources_*.py"):
        if context["example"] != "none" and file.stem == "_".join(["resources", *parts]):
            file.rename(file.with_name("resources.py"))
        else:
            file.unlink()
    remove(Path("licenses"))
    return [word for question, word in LEFT_OUT.items() if context[question] == "none"]


def remove(path: Path) -> None:
    """Remove a file, or a folder with its content, and the folder around it if that is empty then.

    It may be removed already because of another choice.
    """
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if path.parent.is_dir() and not any(path.parent.iterdir()):
        path.parent.rmdir()


def copy_core() -> None:
    """Copy chassis/ of the template into the service, with the script of the service."""
    command = [sys.executable, "scripts/vendor.py", "copy", os.environ["CHASSIS_TEMPLATE"], "--to=chassis"]
    if subprocess.run(command, check=False).returncode:
        sys.exit(1)


def git(folder: str, *arguments: str) -> str:
    """The output of git in a folder; raises OSError without git, and CalledProcessError if git fails."""
    command = ["git", "-C", folder, *arguments]
    english = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(command, capture_output=True, encoding="utf-8", check=True, env=english).stdout.strip()


def origin(context: dict[str, Any]) -> dict[str, Any]:
    """The content of .cruft.json: the template's repository and commit, and the answers."""
    called_in = Path(os.environ["CHASSIS_CALLED_IN"].partition(":")[2])
    folder = str(called_in / Path(context["_repo_dir"]).expanduser())
    git(folder, "ls-files", "--error-unmatch", "cookiecutter.json")  # fails in a copy inside of another repository
    commit = git(folder, "rev-parse", "HEAD")
    # The full address of a cloned template, because cruft cannot clone an abbreviation such as gh:.
    is_local = (called_in / Path(context["_template"]).expanduser()).is_dir()
    top = git(folder, "rev-parse", "--show-toplevel")
    template = url_of_clone(top, commit) or (top if is_local else address_of_remote(top))
    answers = {name: value for name, value in context.items() if not name.startswith("_")}
    return {
        "template": template,
        "commit": commit,
        "checkout": context.get("_checkout"),
        "context": {"cookiecutter": {**answers, "_template": template, "_commit": commit}},
        "directory": git(folder, "rev-parse", "--show-prefix").rstrip("/") or None,
    }


def url_of_clone(folder: str, commit: str) -> str | None:
    """The URL where others get a commit of a clone; None if there is only a path on this machine."""
    for _ in range(5):  # a clone may be the clone of a clone
        try:
            is_pushed = git(folder, "for-each-ref", f"--contains={commit}", "refs/remotes/origin") != ""
        except subprocess.CalledProcessError:
            return None  # the remote has the commit no longer
        if not is_pushed:
            return None
        remote = address_of_remote(folder)
        if re.match(r"(?!file:)[^/\\]{2,}:", remote):  # C:\ is a drive of Windows
            return remote
        folder = str(Path(folder, unquote(remote.removeprefix("file://"))))
    return None


def address_of_remote(folder: str) -> str:
    """The address of the remote of a clone, without passwords and tokens, from the script of the service."""
    command = [sys.executable, "-X", "utf8", "scripts/update.py", "address", folder]
    return subprocess.run(command, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout.strip()


def note_origin(context: dict[str, Any]) -> str | None:
    """Write .cruft.json; returns the reason and the next step if that is impossible, else None."""
    link = "link it: uvx cruft link <template repository>"
    try:
        note = origin(context)
    except OSError:
        return f"git is not installed; install it, then {link}"
    except subprocess.CalledProcessError as error:
        if "safe.directory" in error.stderr:
            allow = f"git config --global --add safe.directory '{error.cmd[2]}'"
            return f"the template's folder belongs to another user; trust it: {allow}; then {link}"
        return f"the template is not a git repository; {link}"
    text = json.dumps(note, ensure_ascii=False, indent=2) + "\n"
    Path(".cruft.json").write_text(text, encoding="utf-8", newline="\n")
    return None


def folder_in_repository() -> str:
    """The path of the service in the git repository that it is generated into.

    Creates a repository if there is none. It has no commit yet, because the first one is its owner's. The path is
    empty at the top of a repository, or without git.
    """
    try:
        return git(".", "rev-parse", "--show-prefix").rstrip("/")
    except OSError:
        return ""
    except subprocess.CalledProcessError as error:
        if "not a git repository" in error.stderr:
            # The branch has the name that the user's configuration gives to the first branch, else main.
            named = subprocess.run(["git", "config", "init.defaultBranch"], capture_output=True, check=False).stdout
            default = [] if named else ["-c", "init.defaultBranch=main"]
            subprocess.run(["git", *default, "init", "--quiet"], check=False)
        return ""


def notes(ci: str, prefix: str) -> list[str]:
    """Hints about the place of the service: a folder of a larger repository, or a member of a uv workspace."""
    found = []
    guide = "chassis/docs/sharing-the-core.md"
    files = {"github": ".github/", "gitlab": ".gitlab-ci.yml"}.get(ci)
    if prefix and files:
        place = f"has no effect in {prefix}/, only at the top"
        found.append(f"{files} {place}; move it: see {guide}#ci-in-a-monorepo")
    for folder in Path.cwd().parents:
        file = folder / "pyproject.toml"
        text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
        if re.search(r"^\s*\[\s*tool\s*\.\s*uv\s*\.\s*workspace\s*\]", text, re.MULTILINE):
            found.append(f"members of the uv workspace {folder} must share one core: see {guide}#a-uv-workspace")
    return found


if __name__ == "__main__":
    context = json.loads(CONTEXT)
    copy_core()
    left_out = choose(context)
    # cruft sets the commit and writes .cruft.json itself. It renders twice for an update, so this prints nothing then.
    if "_commit" not in context:
        reason = note_origin(context)
        slug = context["project_slug"]
        hints = notes(context["ci"], folder_in_repository())
        print(f"\nGenerated {context['project_name']} in {slug}/.")
        if left_out:
            print(f"Left out: {', '.join(left_out)}.")
        for hint in hints:
            print(f"note: {hint}")
        if reason is not None:
            print(f"warning: `make update` will not work: {reason}")
        print(f"\n    cd {slug}\n    make run     # or: make check\n")
