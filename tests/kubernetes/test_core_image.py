"""The container image by each way to the core, built by `make image`, and what is inside."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from bakery import render, run
from containers import Podman, in_container
from sharing import FOLDER, WORKSPACE, service_at_a_tag, services_that_share, template_repository

pytestmark = pytest.mark.xdist_group("image")  # one worker builds, and nobody builds twice

REPRODUCIBLE = "--pull=never --timestamp=1700000000"
WAYS = ["vendored", "folder", "workspace", "tag"]


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """An engine that has the base image."""
    podman = Podman(tmp_path_factory.mktemp("podman"))
    podman.make_base("docker.io/library/python:3.13-slim-trixie")
    yield podman
    podman.clear()


def service(way: str, folder: Path) -> Path:
    """A service called order-service that takes its core by this way."""
    if way == "vendored":
        return render(folder / "service", {})
    if way == "tag":
        return service_at_a_tag(folder / "service", template_repository(folder / "template"))
    source = WORKSPACE if way == "workspace" else FOLDER
    (project,) = services_that_share(folder / "my repository", source, "order-service")
    return project


def make_image(podman: Podman, project: Path, tag: str) -> str:
    flags = " ".join([REPRODUCIBLE, *podman.secret_flags])
    given = ["ENGINE=podman", f"IMAGE=localhost/{tag}", "VERSION=1", "REVISION=1", f"BUILD_FLAGS={flags}"]
    made = podman.run("make", "image", *given, cwd=project)
    assert made.returncode == 0, made.stdout
    return f"localhost/{tag}:1"


@pytest.fixture(scope="module")
def images(podman: Podman, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The image of each way."""
    return {way: make_image(podman, service(way, tmp_path_factory.mktemp(way)), way) for way in WAYS}


def inside(podman: Podman, image: str, script: str) -> str:
    return podman.out("run", "--rm", "--read-only", "--entrypoint=/bin/sh", image, "-c", script).strip()


@pytest.mark.parametrize("way", WAYS)
def test_service_runs_with_the_core_of_the_image(podman: Podman, images: dict[str, str], way: str) -> None:
    assert inside(podman, images[way], "python -c 'import chassis; print(chassis.__file__)'") == (
        "/app/service/chassis/__init__.py"
    )
    with in_container(podman, images[way], APP_DRAIN_SECONDS="0") as container:
        assert container.ready().http.get("/orders").json() == []
        assert container.end() == 0


@pytest.mark.parametrize("way", WAYS)
def test_nothing_in_the_image_tells_where_it_was_built(
    podman: Podman, images: dict[str, str], way: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    # Nothing is editable: neither a link to a folder, nor a note of where a distribution came from.
    found = inside(podman, images[way], "find /app -name '*.pth' -o -name direct_url.json -o -name '*.egg-link'")
    assert [path for path in found.splitlines() if not path.endswith("/_virtualenv.pth")] == []
    built_in = f"file:///|/app/chassis|{tmp_path_factory.getbasetemp()}|{Path.home()}/"
    texts = "--include=RECORD --include=METADATA --include='*.json' --include='*.py' --include='*.cfg'"
    # In what is ours; libraries may name such an address in their documentation.
    assert inside(podman, images[way], f"grep -rlE '{built_in}' {texts} /app/service; true") == ""


def test_image_is_the_same_by_every_way(podman: Podman, images: dict[str, str]) -> None:
    layers = {way: podman.inspect(image)["RootFS"]["Layers"] for way, image in images.items()}

    assert layers == dict.fromkeys(WAYS, layers["vendored"])


def test_changed_shared_folder_is_in_the_next_image(podman: Podman, images: dict[str, str], tmp_path: Path) -> None:
    project = service("folder", tmp_path)
    module = project / "../../libs/chassis/src/chassis/novelty.py"
    shown = []
    for text in ("ONE = 1\n", "TWO = 2\n"):
        module.write_text(text)
        image = make_image(podman, project, "changed")
        shown.append(inside(podman, image, "cat /app/service/chassis/novelty.py"))

    assert shown == ["ONE = 1", "TWO = 2"]


def test_vendored_service_is_built_without_make(podman: Podman, images: dict[str, str], tmp_path: Path) -> None:
    project = service("vendored", tmp_path)
    assert run("uv", "lock", cwd=project).returncode == 0

    flags = [*REPRODUCIBLE.split(), *podman.secret_flags, "--build-arg=REVISION=1"]
    built = podman.run("podman", "build", *flags, "--tag=plain", ".", cwd=project)

    assert built.returncode == 0, built.stdout
    layers = [podman.inspect(image)["RootFS"]["Layers"] for image in ("localhost/plain", images["vendored"])]
    assert layers[0] == layers[1]


def test_flags_of_the_guide_build_without_make(podman: Podman, images: dict[str, str], tmp_path: Path) -> None:
    project = service("workspace", tmp_path)
    guide = (project / "../../libs/chassis/docs/sharing-the-core.md").read_text()
    (of_the_guide,) = re.findall(r"^\$ docker build (.*) \.$", guide, re.MULTILINE)
    assert run("make", "contexts", cwd=project).returncode == 0

    flags = [*REPRODUCIBLE.split(), *podman.secret_flags, "--build-arg=REVISION=1", *of_the_guide.split()]
    built = podman.run("podman", "build", *flags, "--tag=flags", ".", cwd=project)

    assert built.returncode == 0, built.stdout
    layers = [podman.inspect(image)["RootFS"]["Layers"] for image in ("localhost/flags", images["workspace"])]
    assert layers[0] == layers[1]
