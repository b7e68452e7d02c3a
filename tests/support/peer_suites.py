"""Other projects' own tests: fetched at test time, run against our server, and held against a list of deviations."""

import json
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock

from bakery import TEMPLATE, TOOLS

PEERS = TEMPLATE / "tests/peers"
SOURCES = TEMPLATE / "build/peers"
DEVIATIONS = PEERS / "deviations.toml"

Failures = dict[str, str]
"""Why a test failed, or "" where it passed, by the test's id."""


def source_of(name: str) -> Path:
    """The unpacked source distribution of `name`, in the version of sources.txt. Kept in `build/peers`.

    Skips the test when it can't be fetched, but fails in CI.
    """
    (requirement,) = re.findall(rf"^{name}==.*$", (PEERS / "sources.txt").read_text(), re.MULTILINE)
    version, digest = re.fullmatch(r"\S+==(\S+) --hash=sha256:([0-9a-f]{64})", requirement).groups()  # type: ignore[union-attr]
    SOURCES.mkdir(parents=True, exist_ok=True)
    folder = SOURCES / f"{name}-{version}-{digest[:8]}"
    with FileLock(folder.with_suffix(".lock")), tempfile.TemporaryDirectory(dir=SOURCES) as temporary:
        if not folder.exists():
            wanted = Path(temporary) / "source.txt"
            wanted.write_text(requirement)
            options = ["--no-deps", "--no-binary=:all:", "--no-build-isolation", "--require-hashes", "--quiet"]
            made = _run("pip", "download", *options, "--dest", temporary, "--requirement", str(wanted), cwd=PEERS)
            archives = list(Path(temporary).glob("*.tar.gz"))
            if made.returncode != 0 or len(archives) != 1:
                unavailable(f"{name} {version} can't be fetched: {made.stdout[-500:]}")
            with tarfile.open(archives[0]) as archive:
                archive.extractall(temporary, filter="data")
            shutil.move(str(Path(temporary) / f"{name}-{version}"), folder)
    return folder


def run_suite(
    folder: Path, *tests: str, plugins: Iterable[str] = (), not_run: Iterable[str] = (), **environment: str
) -> Failures:
    """Run `tests` of an unpacked source distribution with plugins of ours, in a process of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        results = Path(temporary) / "results.json"
        arguments = [
            "-p",
            "pytest_timeout",
            "-p",
            "peer_results",
            *(word for plugin in plugins for word in ("-p", plugin)),
        ]
        made = _run(
            *("pytest", "-q", "--tb=native", "--timeout=20", "--override-ini=addopts=", "-p", "no:cacheprovider"),
            *(*arguments, *tests),
            cwd=folder,
            # Only the plugins that are named: others of our environment would change how these tests run.
            PYTEST_DISABLE_PLUGIN_AUTOLOAD="1",
            PYTHONPATH=str(Path(__file__).parent),
            PYTHONDONTWRITEBYTECODE="",
            PYTHONPYCACHEPREFIX=str(SOURCES / "bytecode"),  # also of our requirements, which uv does not compile
            PEER_RESULTS=str(results),
            PEER_NOT_RUN=json.dumps(list(not_run)),
            **environment,
        )
        assert results.exists(), made.stdout[-5000:]
        return {str(test): str(message) for test, message in json.loads(results.read_text()).items()}


def deviations_of(suite: str) -> tuple[dict[str, str], dict[str, str]]:
    """The tests that are not run, and those that fail, each with its reason, from deviations.toml."""
    listed = tomllib.loads(DEVIATIONS.read_text())[suite]
    return tuple(  # type: ignore[return-value]
        {test: entry["reason"] for entry in listed.get(part, ()) for test in entry["tests"]}
        for part in ("not_run", "deviations")
    )


def check(failures: Failures, listed: Mapping[str, str]) -> None:
    """Fail for a test that failed and is not listed, and for one that is listed and passed, or is gone."""
    assert failures, "no test has run"
    unlisted = [f"{test}: {why}" for test, why in failures.items() if why and _entry_of(test, listed) is None]
    of_entries = {entry: [test for test in failures if _matches(test, entry)] for entry in listed}
    passed = [test for tests in of_entries.values() for test in tests if not failures[test]]
    gone = [entry for entry, tests in of_entries.items() if not tests]
    count = sum(not why for why in failures.values())
    print(f"{count} of {len(failures)} tests pass; the others are listed in {DEVIATIONS.name}")
    assert not unlisted, "failed:\n" + "\n".join(unlisted)
    assert not passed, f"listed in {DEVIATIONS.name}, but they pass: {passed}"
    assert not gone, f"listed in {DEVIATIONS.name}, but there is no such test: {gone}"


def _entry_of(test: str, listed: Iterable[str]) -> str | None:
    return next((entry for entry in listed if _matches(test, entry)), None)


def _matches(test: str, entry: str) -> bool:
    """An entry is a test's id, with or without its parameters."""
    return test == entry or test.startswith(f"{entry}[")


def _run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a module of Python in our environment with the requirements of these tests on top."""
    return subprocess.run(
        [
            *(str(TOOLS / "uv"), "run", "--quiet", "--project", str(TEMPLATE), "--no-sync"),
            *("--with-requirements", str(PEERS / "requirements.txt"), "python", "-m", *command),
        ],
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=200,
        check=False,
    )


def unavailable(reason: str) -> NoReturn:
    """Skip the test, but fail in CI, where nothing is skipped."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
