"""Folders under git, for tests with real histories."""

from dataclasses import dataclass
from pathlib import Path

from bakery import run

# The author of commits, independent of git's configuration.
IDENTITY = {f"GIT_{role}_{field}": "test" for role in ("AUTHOR", "COMMITTER") for field in ("NAME", "EMAIL")}


@dataclass(frozen=True)
class Repository:
    """A folder under git."""

    folder: Path

    def git(self, *arguments: str | Path) -> str:
        done = run("git", *arguments, cwd=self.folder, **IDENTITY)
        assert done.returncode == 0, done.stdout
        return done.stdout.strip()

    def init(self) -> None:
        self.git("init", "--quiet", "--initial-branch", "main")

    def commit(self, message: str) -> str:
        """Commit everything; returns the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def make(self, *arguments: str, fails: bool = False, **variables: str) -> str:
        """Run make; returns its output."""
        done = run("make", *arguments, cwd=self.folder, **{**IDENTITY, **variables})
        assert bool(done.returncode) is fails, done.stdout
        return done.stdout

    def path(self, path: str) -> Path:
        """One of its files."""
        return self.folder / path

    def read(self, path: str) -> str:
        return self.path(path).read_text()

    def write(self, path: str, text: str) -> None:
        self.path(path).parent.mkdir(parents=True, exist_ok=True)
        self.path(path).write_text(text)

    def edit(self, path: str, old: str, new: str, *, first: bool = False) -> None:
        """Replace a piece of text that is in the file once; with `first`, its first occurrence."""
        text = self.read(path)
        assert text.count(old) == 1 or (first and old in text), (path, old)
        self.path(path).write_text(text.replace(old, new, 1))

    def add(self, path: str, text: str) -> None:
        """Add text at the end of a file."""
        with self.path(path).open("a") as file:
            file.write(text)
