"""The service and its core as wheels, installed with pip alone; and a package index that has another `asgi-chassis`."""

import re
import shutil
import sys
import zipfile
from dataclasses import dataclass
from email.parser import Parser
from pathlib import Path

import pytest

from bakery import HOME, TEMPLATE, render, run
from conftest import Bake
from running import running

pytestmark = pytest.mark.long

STOLEN = "raise SystemExit('this is not the core')\n"


@dataclass(frozen=True)
class Environment:
    """A fresh virtual environment with pip."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    def pip(self, *arguments: str | Path, cwd: Path, fails: bool = False, **variables: str) -> str:
        settings = {"PIP_CACHE_DIR": str(HOME / ".cache/pip"), "PIP_NO_COMPILE": "1", **variables}
        done = run(self.python, "-m", "pip", *arguments, cwd=cwd, **settings)
        assert bool(done.returncode) is fails, done.stdout
        return done.stdout

    def core(self) -> Path:
        """The file that is imported as `chassis`."""
        done = run(self.python, "-c", "import chassis; print(chassis.__file__)", cwd=self.folder)
        assert done.returncode == 0, done.stdout
        return Path(done.stdout.strip())


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """An environment that has the libraries of the core already, which uv installs faster than pip."""
    environment = Environment(tmp_path / "environment")
    core = TEMPLATE / "chassis/pyproject.toml"
    commands: list[list[str | Path]] = [
        ["uv", "venv", "--quiet", "--seed", f"--python={sys.executable}", environment.folder],
        ["uv", "pip", "install", "--quiet", f"--python={environment.python}", "--requirement", core],
    ]
    for command in commands:
        done = run(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stdout
    return environment


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package index with the core's name in a newer version, by somebody else."""
    folder = tmp_path_factory.mktemp("index") / "asgi-chassis"
    folder.mkdir()
    wheel = folder / "asgi_chassis-9.9-py3-none-any.whl"
    info = "asgi_chassis-9.9.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("chassis/__init__.py", STOLEN)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: asgi-chassis\nVersion: 9.9\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(
            f"{info}/RECORD", f"chassis/__init__.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    (folder / "index.html").write_text(f'<!DOCTYPE html><a href="{wheel.name}">{wheel.name}</a>')
    return folder.parent


def commands(project: Path) -> list[str]:
    """The commands of the guide to deployment that build and install the wheels."""
    block = re.search(
        r"```console\n(\$ uv build.*?)```", (project / "chassis/docs/deployment.md").read_text(), re.DOTALL
    )
    assert block
    return [line.removeprefix("$ ") for line in block[1].splitlines()]


def test_wheels_are_installed_by_pip_alone_and_serve(bake: Bake, environment: Environment, tmp_path: Path) -> None:
    project = bake()
    *build, install = commands(project)
    for command in build:
        done = run(*command.split(), cwd=project)
        assert done.returncode == 0, done.stdout
    wheels = sorted((project / "dist").glob("*.whl"))
    assert [wheel.name for wheel in wheels] == [
        "asgi_chassis-0+vendored-py3-none-any.whl",
        "order_service-0.1.0-py3-none-any.whl",
    ]

    assert install == "pip install dist/*.whl"
    environment.pip("install", *wheels, cwd=tmp_path)

    shutil.move(project / "chassis", tmp_path / "away")
    shutil.move(project / "src/order_service", tmp_path / "source")
    (project / "src/order_service").mkdir()  # names the module to run
    with running(environment.python, project, tmp_path, PYTHONPATH="") as service:
        assert service.ready().http.get("/orders").json() == []
    assert environment.core().is_relative_to(environment.folder)
    assert "No broken requirements" in environment.pip("check", cwd=tmp_path)


def test_one_wheel_of_the_core_serves_two_services_in_one_environment(
    bake: Bake, environment: Environment, tmp_path: Path
) -> None:
    orders = bake()
    billing = render(tmp_path / "more", {"project_slug": "billing"})
    out = tmp_path / "dist"
    for folder in (orders / "chassis", orders, billing):
        done = run("uv", "build", "--wheel", "--out-dir", out, folder, cwd=tmp_path)
        assert done.returncode == 0, done.stdout
    wheels = sorted(out.glob("*.whl"))
    files = [set(zipfile.ZipFile(wheel).namelist()) for wheel in wheels]

    assert len(wheels) == 3
    assert set.intersection(files[0], files[1]) | set.intersection(files[1], files[2]) == set()
    environment.pip("install", *wheels, cwd=tmp_path)
    environment.pip("uninstall", "--yes", "billing", cwd=tmp_path)
    assert environment.core().exists()
    assert (environment.folder / "bin/order-service").exists()


def test_source_distribution_builds_the_same_wheel_which_requires_a_version_that_no_index_has(bake: Bake) -> None:
    project = bake()
    for arguments in ((), ("--wheel", "--out-dir", "direct")):
        done = run("uv", "build", *arguments, cwd=project)
        assert done.returncode == 0, done.stdout

    (sdist,) = (project / "dist").glob("*.tar.gz")
    assert sdist.name == "order_service-0.1.0.tar.gz"
    wheels = [next((project / folder).glob("*.whl")) for folder in ("dist", "direct")]
    assert wheels[0].read_bytes() == wheels[1].read_bytes()
    # It requires the version that no public index has.
    with zipfile.ZipFile(wheels[0]) as archive:
        metadata = Parser().parsestr(archive.read("order_service-0.1.0.dist-info/METADATA").decode())

    assert "asgi-chassis==0+vendored" in (metadata.get_all("Requires-Dist") or [])


def test_pip_of_the_service_alone_takes_nothing_from_an_index(
    bake: Bake, environment: Environment, index: Path
) -> None:
    project = bake()
    places = ("--extra-index-url", index.as_uri(), "--find-links", index / "asgi-chassis")

    said = environment.pip("install", *places, ".", cwd=project, fails=True)

    assert "No matching distribution found for asgi-chassis==0+vendored" in said
    # The index was asked, so that this shows something.
    assert re.search(r"asgi-chassis==0\+vendored .*\(from versions: 9\.9(, 9\.9)?\)", said)
    assert list(environment.folder.rglob("chassis")) == []


def test_pip_of_both_takes_the_folder(bake: Bake, environment: Environment, index: Path) -> None:
    project = bake()
    assert "$ pip install ./chassis .\n" in (project / "README.md").read_text()
    places = ("--extra-index-url", index.as_uri(), "--find-links", index / "asgi-chassis")

    environment.pip("install", *places, "./chassis", ".", cwd=project)

    assert environment.core().is_relative_to(environment.folder)
    assert environment.core().read_text() == (project / "chassis/src/chassis/__init__.py").read_text()
    assert [path.name for path in project.iterdir() if path.name in ("build", "dist")] == []


@pytest.mark.parametrize("strategy", ["first-index", "unsafe-best-match"])
def test_uv_takes_the_folder(bake: Bake, index: Path, strategy: str) -> None:
    project = bake()
    places = {"UV_INDEX": index.as_uri(), "UV_FIND_LINKS": str(index / "asgi-chassis"), "UV_INDEX_STRATEGY": strategy}

    done = run("make", "install", cwd=project, **places)

    assert done.returncode == 0, done.stdout
    where = run(project / ".venv/bin/python", "-c", "import chassis; print(chassis.__file__)", cwd=project).stdout
    assert where.strip() == str(project / "chassis/src/chassis/__init__.py")


@pytest.mark.parametrize("strategy", ["first-index", "unsafe-best-match"])
def test_uv_that_ignores_the_sources_takes_nothing_from_an_index(bake: Bake, index: Path, strategy: str) -> None:
    project = bake()
    places = {"UV_INDEX": index.as_uri(), "UV_FIND_LINKS": str(index / "asgi-chassis"), "UV_INDEX_STRATEGY": strategy}

    for command in (
        ("uv", "lock", "--no-sources"),
        ("uv", "pip", "install", "--no-sources", "--target", "out", "--python", sys.executable, "."),
    ):
        done = run(*command, cwd=project, **places)
        assert done.returncode != 0
        assert "asgi-chassis==0+vendored" in " ".join(done.stdout.split())
        assert not (project / "out/chassis").exists()
