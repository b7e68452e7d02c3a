"""Podman, with a storage of its own, and a base image that is made here instead of pulled."""

import configparser
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pytest
from filelock import FileLock

from bakery import HOME, clean_environment
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
            "CONTAINERS_CONF": str(self._configuration("run", [])),
            "BUILDAH_ISOLATION": "chroot",
        }
        volumes = index_volumes(folder)
        self.mounted = [Path(one.partition(":")[0]) for one in volumes]
        self._build_variables = {"CONTAINERS_CONF": str(self._configuration("build", volumes))}

    def _storage(self, name: str, folder: Path, *, shared: list[Path]) -> Path:
        path = self._folder / f"storage-{name}.conf"
        path.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}"\nrunroot = "{self._state}/{name}"\n'
            f"[storage.options]\nadditionalimagestores = {json.dumps([str(one) for one in shared])}\n"
        )
        return path

    def _configuration(self, name: str, volumes: list[str]) -> Path:
        runtime = next((one for one in ("runc", "crun") if shutil.which(one)), "runc")
        path = self._folder / f"{name}.conf"
        path.write_text(
            "[containers]\n"
            'netns = "host"\n'
            'default_ulimits = ["nofile=1024:20000", "nproc=1000:1000"]\n'
            f"volumes = {json.dumps(volumes)}\n"
            # Locks of its own: those in shared memory are numbered for one storage, and ours would be taken by others'.
            f'[engine]\nruntime = "{runtime}"\nlock_type = "file"\ntmp_dir = "{self._state}/locks"\n'
        )
        return path

    def command(
        self, *command: str | Path, building: bool = False, storage: Path | None = None
    ) -> tuple[list[str], dict[str, str]]:
        """A command as root that finds this storage, and its environment."""
        own = {**self._variables, **(self._build_variables if building else {})}
        if storage is not None:
            own["CONTAINERS_STORAGE_CONF"] = str(storage)
        variables = clean_environment(HOME, **own)
        given = [str(one) for one in command]
        if os.geteuid() == 0:
            return given, variables
        variables["UV_CACHE_DIR"] = str(CACHE / "uv")  # what root writes there nobody else could
        return ["sudo", "-n", "env", *(f"{name}={value}" for name, value in variables.items()), *given], variables

    def run(
        self, *command: str | Path, cwd: Path | None = None, building: bool = False, storage: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as root to its end; its output is one text."""
        given, variables = self.command(*command, building=building, storage=storage)
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
        self.run("rm", "-rf", self._state)


class Container(Service):
    """A service that runs in a container as in a cluster: read-only, with a number for a user."""

    def __init__(self, podman: Podman, image: str, *flags: str, variables: dict[str, str]) -> None:
        self._podman = podman
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


def opened(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(member)
    assert content is not None
    return content


def index_volumes(folder: Path) -> list[str]:
    """Files that a build needs to reach this machine's package index: mounted meanwhile, and in no layer."""
    pip = configparser.ConfigParser(interpolation=None)
    pip.read(["/etc/pip.conf", HOME / ".config/pip/pip.conf", HOME / ".pip/pip.conf"])
    kept = {"index-url", "proxy", "timeout", "trusted-host"}
    settings = {name: value for name, value in pip["global"].items() if name in kept} if "global" in pip else {}
    settings |= {one: os.environ[key] for one in kept if (key := f"PIP_{one.upper().replace('-', '_')}") in os.environ}
    uv = ["system-certs = true"]
    if index := os.environ.get("UV_DEFAULT_INDEX") or os.environ.get("UV_INDEX_URL"):
        uv.append(f"index = [{{ url = {json.dumps(index)}, default = true }}]")

    volumes = []
    if certificates := os.environ.get("SSL_CERT_FILE"):
        settings["cert"] = "/etc/ssl/certs/ca-certificates.crt"
        volumes.append(f"{Path(certificates).resolve()}:{settings['cert']}:ro")
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
    (folder / "uv.toml").write_text("\n".join([*uv, ""]))
    return [*volumes, f"{folder}/pip.conf:/etc/pip.conf:ro", f"{folder}/uv.toml:/etc/uv/uv.toml:ro"]
