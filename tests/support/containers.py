"""Podman, with a storage of its own, and a base image that is made here instead of pulled."""

import configparser
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import httpx
import pytest
from filelock import FileLock

from bakery import HOME, clean_environment
from cluster import wait_until
from running import Lines, Service, needs

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or HOME / ".cache") / "cookiecutter-chassis"
# A change of what is done below makes another base.
MADE = "1"
MIRROR = "http://deb.debian.org/debian"
# Debian's Python in the shape of the official image: pip beside it in /usr/local and free to install, `python` as a
# name, ensurepip, no bytecode of the standard library.
LIKE_THE_OFFICIAL_IMAGE = """
set -eu
rm -f /usr/lib/python3*/EXTERNALLY-MANAGED
for wheel in /usr/share/python-wheels/pip-*.whl; do
    python3 "$wheel/pip" install --quiet --root-user-action=ignore --no-index --no-deps "$wheel"
done
ln -s /usr/bin/python3 /usr/local/bin/python
rm -rf /usr/share/python-wheels /var/cache/apt/archives/*.deb /var/lib/apt/lists/*
find /usr/lib/python3* /usr/local -name __pycache__ -prune -exec rm -r {} +
"""


class Podman:
    """Runs podman as root, with images and containers that are nobody else's; only the base is shared and kept."""

    def __init__(self, folder: Path) -> None:
        needs("podman")
        if os.geteuid() != 0 and subprocess.run(["sudo", "-n", "true"], capture_output=True, check=False).returncode:
            assert not os.environ.get("CI"), "sudo asks for a password"
            pytest.skip("containers are run by root, and sudo asks for a password")
        self._folder = folder
        # Sockets are in there, whose paths can't be longer than a hundred characters, and mounts, which pytest couldn't
        # remove with its folders if the tests were killed.
        self._state = Path(tempfile.mkdtemp(prefix="podman-"))
        self._variables = {
            "CONTAINERS_STORAGE_CONF": str(
                self._storage("own", self._state / "storage", shared=[CACHE / "containers"])
            ),
            "CONTAINERS_CONF": str(self._configuration()),
            "BUILDAH_ISOLATION": "chroot",
            # podman starts itself a hundred times in a build, and collects garbage at each start: a third of its time.
            "GOGC": "400",
        }
        self._keep_in_memory()
        self.secrets = index_secrets(folder)
        """Files that a build needs to reach this machine's package index, by the names of the Dockerfile's secrets."""

    def _keep_in_memory(self) -> None:
        """Podman waits for the disk half of its time, and its layers are small (300 MB). It may fail, then it waits."""
        if available_bytes() > 6e9:
            self.run("mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", self._state)

    def _storage(self, name: str, folder: Path, *, shared: list[Path]) -> Path:
        path = self._folder / f"storage-{name}.conf"
        path.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}"\nrunroot = "{self._state}/{name}"\n'
            f"[storage.options]\nadditionalimagestores = {json.dumps([str(one) for one in shared])}\n"
        )
        return path

    @property
    def secret_flags(self) -> list[str]:
        """The flags of `podman build` for the secrets."""
        return [f"--secret=id={name},src={path}" for name, path in self.secrets.items()]

    def _configuration(self) -> Path:
        runtime = next((one for one in ("runc", "crun") if shutil.which(one)), "runc")
        path = self._folder / "containers.conf"
        path.write_text(
            "[containers]\n"
            'netns = "host"\n'
            'default_ulimits = ["nofile=1024:20000", "nproc=1000:1000"]\n'
            # Locks of its own: those in shared memory are numbered for one storage, and ours would be taken by others'.
            f'[engine]\nruntime = "{runtime}"\nlock_type = "file"\ntmp_dir = "{self._state}/locks"\n'
        )
        return path

    def command(
        self, *command: str | Path, storage: Path | None = None, more: Mapping[str, str] | None = None
    ) -> tuple[list[str], dict[str, str]]:
        """A command as root that finds this storage, and its environment."""
        own = {**self._variables, **(more or {})}
        if storage is not None:
            own["CONTAINERS_STORAGE_CONF"] = str(storage)
        variables = clean_environment(HOME, **own)
        given = [str(one) for one in command]
        if os.geteuid() == 0:
            return given, variables
        variables["UV_CACHE_DIR"] = str(CACHE / "uv")  # what root writes there nobody else could
        return ["sudo", "-n", "env", *(f"{name}={value}" for name, value in variables.items()), *given], variables

    def insecure(self, host: str) -> dict[str, str]:
        """The variables that allow a registry without TLS."""
        path = self._folder / "registries.conf"
        path.write_text(f'[[registry]]\nlocation = "{host}"\ninsecure = true\n')
        return {"CONTAINERS_REGISTRIES_CONF": str(path)}

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        storage: Path | None = None,
        more: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root to its end; its output is one text."""
        given, variables = self.command(*command, storage=storage, more=more)
        return subprocess.run(
            given,
            cwd=cwd or self._folder,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def out(self, *arguments: str | Path) -> str:
        """podman's output; fails the test if podman fails."""
        done = self.run("podman", *arguments)
        assert done.returncode == 0, done.stdout
        return done.stdout

    def inspect(self, image: str) -> dict[str, Any]:
        """The image's own description."""
        (description,) = json.loads(self.out("image", "inspect", image))
        assert isinstance(description, dict)
        return description

    def layers_above(self, known: int, image: str, folder: Path) -> tuple[dict[str, bytes], bytes]:
        """The files of all layers but the first ones, each by its path, and the image's configuration."""
        saved = folder / "image.tar"
        self.out("save", "--quiet", "--format=docker-archive", f"--output={saved}", image)
        self.run("chmod", "a+r", saved)
        files: dict[str, bytes] = {}
        with tarfile.open(saved) as archive:
            (manifest,) = json.load(opened(archive, "manifest.json"))
            for layer in manifest["Layers"][known:]:
                with tarfile.open(fileobj=opened(archive, layer)) as content:
                    files |= {one.name: opened(content, one).read() for one in content if one.isfile()}
            return files, opened(archive, manifest["Config"]).read()

    def make_base(self, name: str) -> None:
        """A Debian with Python that goes by this name, made once and kept for the next runs."""
        CACHE.mkdir(parents=True, exist_ok=True)
        with FileLock(CACHE / "base.lock"):
            shared = self._storage("base", CACHE / "containers", shared=[])
            label = self.run(
                "podman", "image", "inspect", "--format", '{{ index .Labels "made" }}', name, storage=shared
            )
            if label.returncode == 0 and label.stdout.strip() == MADE:
                return
            needs("debootstrap")
            root = self._folder / "base"
            packages = "--include=python3,python3-venv,ca-certificates"
            for command in (
                ["debootstrap", "--variant=minbase", packages, "trixie", root, MIRROR],
                ["chroot", root, "/bin/sh", "-c", LIKE_THE_OFFICIAL_IMAGE],
                ["tar", "--create", "--numeric-owner", f"--directory={root}", f"--file={root}.tar", "."],
                ["podman", "import", "--quiet", f"--change=LABEL made={MADE}", f"{root}.tar", name],
                ["rm", "-r", root, f"{root}.tar"],
            ):
                done = self.run(*command, storage=shared)
                assert done.returncode == 0, done.stdout

    def clear(self) -> None:
        """Leave nothing behind."""
        self.run("umount", "--lazy", self._state / "storage/overlay")  # where podman leaves it mounted
        self.run("umount", "--lazy", self._state)
        self.run("rm", "-rf", self._state)


class Registry:
    """Debian's docker-registry, as a process, with a folder for its content."""

    def __init__(self, folder: Path) -> None:
        needs("docker-registry")
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            self.host = f"127.0.0.1:{one.getsockname()[1]}"
        configuration = folder / "registry.json"  # JSON is YAML
        content = {
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": str(folder / "content")}},
            "http": {"addr": self.host},
            "log": {"level": "error", "accesslog": {"disabled": True}},
        }
        configuration.write_text(json.dumps(content))
        self._process = subprocess.Popen(["docker-registry", "serve", configuration], stderr=subprocess.DEVNULL)
        wait_until(self._responds, "the registry responds")

    def _responds(self) -> bool:
        try:
            return httpx.get(f"http://{self.host}/v2/", trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def _manifest(self, name: str, reference: str) -> httpx.Response:
        accepted = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
        address = f"http://{self.host}/v2/{name}/manifests/{reference}"
        return httpx.head(address, headers={"Accept": accepted}, trust_env=False)

    def digest(self, name: str, tag: str) -> str:
        """The digest that the registry gives for a tag."""
        return self._manifest(name, tag).headers["Docker-Content-Digest"]

    def has(self, name: str, digest: str) -> bool:
        """Whether an image can be pulled by this digest."""
        return self._manifest(name, digest).status_code == 200

    def close(self) -> None:
        """Stop it."""
        self._process.kill()
        self._process.wait()


class Container(Service):
    """A service that runs in a container as in a cluster: read-only, with a number for a user."""

    def __init__(self, podman: Podman, image: str, *flags: str, variables: dict[str, str]) -> None:
        self._podman = podman
        self._is_launched = False
        self._name = f"chassis-{uuid.uuid4()}"
        given = [f"--env={name}={value}" for name, value in {"APP_PORT": "0", **variables}.items()]
        command, environment = podman.command(
            "podman", "run", "--rm", "--name", self._name, "--read-only", "--cap-drop=all", *flags, *given, image
        )
        self.process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self.output = Lines(self.process.stdout)
        self.errors = Lines(self.process.stderr)

    def close(self) -> None:
        """Leave nothing behind, whatever the test did."""
        self._podman.run("podman", "rm", "--force", "--ignore", "--time=0", self._name)
        super().close()


@contextmanager
def in_container(podman: Podman, image: str, *flags: str, **variables: str) -> Iterator[Container]:
    """Run `image`; what it wrote is shown when the test fails."""
    container = Container(podman, image, *flags, variables=variables)
    try:
        yield container
    finally:
        container.close()
        print("\n".join([*container.output, *container.errors]))


def available_bytes() -> int:
    """The memory that programs can still take."""
    found = re.search(r"^MemAvailable: +(\d+) kB$", Path("/proc/meminfo").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def opened(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    assert content is not None
    return content


def index_secrets(folder: Path) -> dict[str, Path]:
    """Files that a build needs to reach this machine's package index."""
    pip = configparser.ConfigParser(interpolation=None)
    pip.read(["/etc/pip.conf", HOME / ".config/pip/pip.conf", HOME / ".pip/pip.conf"])
    kept = {"index-url", "proxy", "timeout", "trusted-host"}
    settings = {name: value for name, value in pip["global"].items() if name in kept} if "global" in pip else {}
    settings |= {one: os.environ[key] for one in kept if (key := f"PIP_{one.upper().replace('-', '_')}") in os.environ}
    uv = []
    if index := os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL"):
        uv.append(f"index = [{{ url = {json.dumps(index)}, default = true }}]")

    secrets = {"pip": folder / "pip.conf", "uv": folder / "uv.toml"}
    if certificates := os.environ.get("SSL_CERT_FILE"):
        settings["cert"] = "/etc/ssl/certs/ca-certificates.crt"
        secrets["ca"] = Path(certificates).resolve()
    secrets["pip"].write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    secrets["uv"].write_text("\n".join([*uv, ""]))
    return secrets
