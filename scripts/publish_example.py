"""Commits a generated service to a branch of a repository, where people can read it without generating one.

    python scripts/publish_example.py <folder of the service> <repository> <commit of the template>

Each run adds a commit to the branch `example` if the service differs, so that the branch shows how releases of the
template change a service. `.github/` is left out: GitHub accepts no workflow files from a workflow.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BRANCH = "example"
LEFT_OUT = shutil.ignore_patterns(".github", ".git", ".venv", "uv.lock")
AUTHOR = (
    "-c",
    "user.name=github-actions[bot]",
    "-c",
    "user.email=41898282+github-actions[bot]@users.noreply.github.com",
)


def main(service: Path, repository: str, commit: str) -> None:
    """Replace the files of the branch with those of the service, and push a commit if that changes something."""
    with tempfile.TemporaryDirectory() as folder:
        checkout = Path(folder, "checkout")
        branches = git(Path(folder), "ls-remote", "--heads", repository, BRANCH)
        if branches:
            git(Path(folder), "clone", "--quiet", "--branch", BRANCH, repository, str(checkout))
            git(checkout, "rm", "--quiet", "-r", ".")
        else:
            git(Path(folder), "init", "--quiet", "--initial-branch", BRANCH, str(checkout))
        shutil.copytree(service, checkout, ignore=LEFT_OUT, dirs_exist_ok=True)
        git(checkout, "add", "--all")
        if not git(checkout, "status", "--porcelain"):
            print(f"The branch {BRANCH} is up to date; nothing was pushed.")
            return
        git(checkout, *AUTHOR, "commit", "--quiet", "--message", f"The default service, generated from {commit}")
        git(checkout, "push", "--quiet", repository, BRANCH)
        print(f"Pushed the default service of {commit} to the branch {BRANCH}.")


def git(folder: Path, *arguments: str) -> str:
    """Run git; exits with its message if it fails."""
    done = subprocess.run(["git", *arguments], cwd=folder, check=False, capture_output=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{done.stderr}error: git {arguments[0]} failed for the branch {BRANCH}; the branch is unchanged")
    return done.stdout.strip()


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
