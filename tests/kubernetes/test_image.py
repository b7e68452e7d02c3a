"""The container image: built by `make image` from a fresh service, inspected, and run as in a cluster.

The second half builds it by each way to the core. In one file, so that these builds find the layers of the first.
"""

import json
import re
import shutil
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZipFile

import httpx
import pytest
from jinja2 import Template

from bakery import SOURCE, TEMPLATE, files_of, render, run
from conftest import Bake
from containers import Podman, Registry, in_container
from sharing import FOLDER, WORKSPACE, service_at_a_tag, services_that_share, template_repository

# A build may take minutes on a slow machine.
pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

COMMIT_TIME = "1700000000"
REPRODUCIBLE = f"--pull=never --timestamp={COMMIT_TIME}"
MARK = "nobody may see this"
TAG = "ghcr.io/some-one/order-service:0.1.0"
ANSWERS = {"owner": "Some-One", "license": "MIT"}
WAYS = ["vendored", "folder", "workspace", "tag"]


def base_of(project: Path) -> str:
    """The image that the Dockerfile builds upon."""
    found = re.search(r"^FROM (\S+) AS python$", (project / "Dockerfile").read_text(), re.MULTILINE)
    assert found
    return found[1]


def commit_all(project: Path) -> None:
    """Make a repository, whose commit is the same each time."""
    who = {"GIT_AUTHOR_DATE": COMMIT_TIME, "GIT_COMMITTER_DATE": COMMIT_TIME}
    for key in ("AUTHOR", "COMMITTER"):
        who |= {f"GIT_{key}_NAME": "test", f"GIT_{key}_EMAIL": "test@example.com"}
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", MARK]):
        done = run("git", *command, cwd=project, **who)
        assert done.returncode == 0, done.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh service in a repository, with files lying about that are nobody's business."""
    project = render(tmp_path_factory.mktemp("image"), ANSWERS)
    for name in (".env", "src/order_service/.env", "id_rsa", "tests/secret.txt", ".venv/secret"):
        (project / name).parent.mkdir(exist_ok=True)
        (project / name).write_text(MARK)
    commit_all(project)
    return project


@pytest.fixture(scope="module")
def commit(project: Path) -> str:
    """The commit of the fresh service. Builds without `make` and by other ways get it: they know of no repository."""
    return run("git", "rev-parse", "HEAD", cwd=project).stdout.strip()


@pytest.fixture(scope="module")
def podman(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Podman]:
    """An engine that has the base image."""
    podman = Podman(tmp_path_factory.mktemp("podman"))
    podman.make_base(base_of(project))
    yield podman
    podman.clear()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry on this machine."""
    registry = Registry(tmp_path_factory.mktemp("registry"))
    yield registry
    registry.close()


@pytest.fixture(scope="module")
def image(podman: Podman, project: Path) -> str:
    """The image that `make image` builds from a fresh service."""
    assert not (project / "uv.lock").exists()
    return make_image(podman, project, TAG)


def make_image(podman: Podman, project: Path, tag: str, flags: str = "") -> str:
    name, _, version = tag.partition(":")
    given = ["ENGINE=podman", f"IMAGE={name}", f"VERSION={version}"] if tag != TAG else ["ENGINE=podman"]
    flags = f"BUILD_FLAGS={' '.join([REPRODUCIBLE, *podman.secret_flags, flags])}"
    made = podman.run("make", "image", *given, flags, cwd=project)
    assert made.returncode == 0, made.stdout
    return tag


def inside(podman: Podman, image: str, script: str, *flags: str) -> str:
    """The output of a shell inside."""
    return podman.out("run", "--rm", "--read-only", "--entrypoint=/bin/sh", *flags, image, "-c", script).strip()


def layers(podman: Podman, image: str) -> list[str]:
    return [str(one) for one in podman.inspect(image)["RootFS"]["Layers"]]


def test_fresh_service_is_built_and_locked(image: str, project: Path) -> None:
    lock = tomllib.loads((project / "uv.lock").read_text())

    assert image
    assert "order-service" in {one["name"] for one in lock["package"]}


def test_labels_say_what_was_built(podman: Podman, image: str, commit: str) -> None:
    config = podman.inspect(image)["Config"]

    assert {name.rpartition(".")[2]: value for name, value in config["Labels"].items() if "opencontainers" in name} == {
        "title": "order-service",
        "source": "https://github.com/Some-One/order-service",
        "version": "0.1.0",
        "revision": commit,
    }


def test_command_user_and_signal_are_those_of_kubernetes(podman: Podman, image: str) -> None:
    config = podman.inspect(image)["Config"]

    assert config["User"] == "10001:10001"
    assert config["Entrypoint"] == ["python", "-m", "order_service"]
    assert config.get("Cmd") is None
    assert config["StopSignal"] == "SIGTERM"
    assert "Healthcheck" not in config


def test_nothing_that_installs_or_builds_is_inside(podman: Podman, image: str) -> None:
    tools = "pip pip3 uv uvx gcc cc g++ make ld git curl wget hatch"
    found = inside(podman, image, f"for one in {tools}; do command -v $one; done; true")
    modules = inside(
        podman,
        image,
        'python -c "from importlib import metadata, util; '
        "print([one for one in ('pip', 'ensurepip', 'uv', 'setuptools', 'hatchling') if util.find_spec(one)], "
        "[one.name for one in metadata.distributions() if one.name in {'pip', 'uv', 'pytest', 'ruff', 'hatchling'}])\"",
    )

    assert found == ""
    assert modules == "[] []"


def test_nothing_can_be_written_to_even_where_the_root_is_not_read_only(podman: Podman, image: str) -> None:
    # Files that the kernel and the system offer to everybody are left out.
    outside = ["/dev", "/proc", "/sys", "/tmp", "/var/tmp", "/run/lock"]  # noqa: S108
    pruned = " -o ".join(f"-path {path}" for path in outside)
    script = f"id -u; find / \\( {pruned} \\) -prune -o ! -type l -writable -print 2>/dev/null; true"
    shown = podman.out("run", "--rm", "--entrypoint=/bin/sh", image, "-c", script).split()

    assert shown == ["10001"]


def test_serves_with_nothing_writable_and_ends_in_order(podman: Podman, image: str, commit: str) -> None:
    with in_container(podman, image, "--read-only-tmpfs=false", APP_DRAIN_SECONDS="0.2") as service:
        service.ready()
        order = service.http.post("/orders", json={"customer": "Ada", "lines": [{"sku": "tea", "quantity": 1}]})
        info = service.admin.get("/info").json()
        status = service.end()
        ended = [one["event"] for one in service.events()[-2:]]

    assert order.status_code == 201
    assert (info["name"], info["version"], info["commit"]) == ("order-service", "0.1.0", commit)
    assert (status, ended) == (0, ["draining", "stopped"])
    assert [*service.errors] == []


def test_wrong_setting_is_named_and_the_exit_status_is_2(podman: Podman, image: str) -> None:
    with in_container(podman, image, APP_LOG_LEVEL="LOUD") as service:
        assert service.process.wait(20) == 2
        assert "APP_LOG_LEVEL" in "".join(service.errors.all())


def test_all_that_is_imported_has_bytecode_that_no_time_can_make_stale(podman: Podman, image: str) -> None:
    program = (
        "import sys, order_service.__main__, order_service.app\n"
        "for name, module in sorted(sys.modules.items()):\n"
        "    path = getattr(module, '__cached__', None)\n"
        "    if path and not name.startswith(('__main__', 'sitecustomize')):\n"
        "        try: flags = open(path, 'rb').read(8)[4]\n"
        "        except OSError: flags = None\n"
        "        if flags != 1: print(name, flags)\n"
        "print('modules', len(sys.modules))\n"
    )
    shown = podman.out("run", "--rm", "--entrypoint=python", image, "-c", program).splitlines()

    assert shown[:-1] == []
    assert int(shown[-1].split()[1]) > 300


def test_layers_hold_nothing_of_the_machine_and_no_secret(
    podman: Podman, image: str, project: Path, tmp_path: Path
) -> None:
    known = len(layers(podman, base_of(project)))
    secrets = [MARK.encode(), *filter(None, (path.read_bytes() for path in podman.secrets.values()))]
    ours, configuration = podman.layers_above(known, image, tmp_path)

    assert b"app/service" in configuration
    assert [secret for secret in secrets if secret in configuration] == []
    assert not re.search(rb"SSL_CERT|PIP_|UV_", configuration)
    assert "app/service/order_service/app.py" in ours
    assert "app/service/order_service-0.1.0.dist-info/licenses/LICENSE" in ours
    assert [path for path, content in ours.items() if any(one in content for one in secrets)] == []
    assert {path.split("/")[1] for path in ours if path.startswith("app/")} == {".venv", "service"}


def test_image_is_small(podman: Podman, image: str, project: Path) -> None:
    sizes = [podman.inspect(one)["Size"] / 1e6 for one in (image, base_of(project))]
    print(f"{sizes[0]:.0f} MB, of which the base {sizes[1]:.0f} MB")

    # 130 MB over Debian's slim image is the goal, and Python itself is about 45 of them.
    assert sizes[0] - sizes[1] < 85


def test_first_response_comes_soon(podman: Podman, image: str) -> None:
    with in_container(podman, image) as service:
        began = time.monotonic()
        service.ready()
        answer = httpx.get(f"{service.admin.base_url}/readyz", trust_env=False)
        print(f"first answer {time.monotonic() - began:.2f} s after `podman run`")

    assert answer.status_code == 200


def test_same_commit_gives_the_same_bytes_elsewhere_and_later_also_without_make(
    podman: Podman, image: str, project: Path, commit: str, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(project, copy, copy_function=shutil.copyfile, ignore=shutil.ignore_patterns(".venv"))
    (copy / "notes").write_text(MARK)
    for path in (copy / "src").rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)  # a strict umask
    flags = [*REPRODUCIBLE.split(), *podman.secret_flags, f"--build-arg=REVISION={commit}"]
    built = podman.run("podman", "build", "--no-cache", *flags, "--tag=again", ".", cwd=copy)

    assert built.returncode == 0, built.stdout
    assert layers(podman, "localhost/again") == layers(podman, image)


def test_another_commit_of_the_same_files_is_named_in_the_image(podman: Podman, image: str, project: Path) -> None:
    """podman takes ENV and LABEL from its cache, although their arguments have changed."""
    flags = f"BUILD_FLAGS={' '.join([REPRODUCIBLE, *podman.secret_flags])}"
    named = ["ENGINE=podman", "IMAGE=localhost/other", "VERSION=2", "REVISION=abc"]
    made = podman.run("make", "image", *named, flags, cwd=project)
    assert made.returncode == 0, made.stdout
    config = podman.inspect("localhost/other:2")["Config"]

    assert image
    assert "APP_COMMIT=abc" in config["Env"]
    assert config["Labels"]["org.opencontainers.image.revision"] == "abc"
    assert config["Labels"]["org.opencontainers.image.version"] == "2"


def test_push_notes_the_digest_that_the_registry_has(
    podman: Podman, image: str, project: Path, registry: Registry
) -> None:
    """podman's own digest is that of the local manifest, which no registry has."""
    name = f"{registry.host}/order-service"
    podman.out("tag", image, f"{name}:1.0.0")
    insecure = podman.insecure(registry.host)
    pushed = podman.run("make", "push", "ENGINE=podman", f"IMAGE={name}", "VERSION=1.0.0", cwd=project, more=insecure)
    assert pushed.returncode == 0, pushed.stdout
    noted = (project / ".cache/pushed").read_text()
    digest = noted.strip().rpartition("@")[2]
    local = [one.rpartition("@")[2] for one in podman.inspect(f"{name}:1.0.0")["RepoDigests"]]

    assert pushed.stdout.splitlines()[-1] == f"{name}@{digest}"
    assert noted == f"{name}:1.0.0@{digest}\n"
    assert digest == registry.digest("order-service", "1.0.0")
    assert registry.has("order-service", digest)
    assert [one for one in local if one != digest], "podman has no digest of its own any more"


def test_push_of_an_image_that_is_not_built_is_one_sentence(podman: Podman, project: Path, registry: Registry) -> None:
    named = ["ENGINE=podman", f"IMAGE={registry.host}/order-service", "VERSION=9"]
    pushed = podman.run("make", "push", *named, cwd=project)

    assert pushed.returncode != 0
    assert "error: podman push failed; see its message above; is the image built (make image)?\n" in pushed.stdout
    assert "Traceback" not in pushed.stdout


def test_outdated_lock_file_is_rejected(podman: Podman, image: str, project: Path, tmp_path: Path) -> None:
    copy = tmp_path / "behind"
    shutil.copytree(project, copy)
    text = (copy / "pyproject.toml").read_text()
    (copy / "pyproject.toml").write_text(text.replace('"structlog",', '"structlog",\n    "tomli-w>=1",'))
    built = podman.run("podman", "build", *REPRODUCIBLE.split(), *podman.secret_flags, ".", cwd=copy)

    assert image
    assert built.returncode != 0
    assert "uv.lock" in built.stdout


def test_wheel_has_the_migrations_and_needs_no_server_of_development(bake: Bake) -> None:
    """The image contains the files of the wheel, and the libraries of its requirements."""
    project = bake(database="sqlalchemy")
    built = run("uv", "build", "--quiet", "--wheel", cwd=project)
    assert built.returncode == 0, built.stdout
    (path,) = (project / "dist").glob("*.whl")
    with ZipFile(path) as wheel:
        names = wheel.namelist()
        metadata = wheel.read("order_service-0.1.0.dist-info/METADATA").decode()

    source = project / "src/order_service/migrations"
    files = {f"order_service/migrations/{one}" for one in files_of(source)}
    assert "order_service/migrations/versions/0002_orders.py" in files
    assert {one for one in names if "/migrations/" in one} == files
    assert "Requires-Dist: asgi-chassis[migrations,sqlalchemy]" in metadata
    assert "pgserver" not in metadata


def test_every_dependency_has_a_wheel_for_both_architectures(image: str, project: Path) -> None:
    lock = tomllib.loads((project / "uv.lock").read_text())
    packages = {one["name"]: one for one in lock["package"]}
    # The core is built with the service.
    wanted = [one["name"] for name in ("order-service", "asgi-chassis") for one in packages[name]["dependencies"]]
    seen = {"asgi-chassis"}
    missing = []
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        if {"directory", "editable"} & packages[name]["source"].keys():  # the core, which is built from its folder
            wanted += [one["name"] for one in packages[name]["dependencies"]]
            continue
        wanted += [one["name"] for one in packages[name].get("dependencies", [])]
        wheels = [one["url"].rpartition("/")[2] for one in packages[name].get("wheels", [])]
        for machine in ("x86_64", "aarch64"):
            fits = rf"-(py3|py2\.py3|cp313|cp3\d+-abi3)\b.*(none-any|manylinux\w*_{machine})\b.*\.whl"
            if not any(re.search(fits, wheel) for wheel in wheels):
                missing.append((name, machine))

    assert image
    assert {"uvloop", "pydantic-core", "httptools", "orjson"} <= seen
    assert missing == []


@pytest.mark.parametrize("version", json.loads((TEMPLATE / "cookiecutter.json").read_text())["python_version"])
def test_base_has_the_chosen_python(tmp_path: Path, version: str) -> None:
    source = Template((SOURCE / "Dockerfile").read_text())
    (tmp_path / "Dockerfile").write_text(source.render(cookiecutter={"python_version": version}))
    found = re.fullmatch(r"docker\.io/library/python:3\.(\d+)-slim-trixie", base_of(tmp_path))

    assert found
    assert int(found[1]) >= int(version.removeprefix("3."))


def test_base_can_come_from_a_mirror(podman: Podman, image: str, project: Path, tmp_path: Path) -> None:
    # Its Python does nothing, because this is not about the standard library, which would be compiled again.
    program = "RUN ln -sf /bin/true /usr/local/bin/python"
    (tmp_path / "Dockerfile").write_text(f"FROM {base_of(project)}\nLABEL mirror=yes\n{program}\n")
    made = podman.run("podman", "build", "--pull=never", "--tag=localhost/mirror/python:1", ".", cwd=tmp_path)
    assert made.returncode == 0, made.stdout

    # The stage that all others build upon.
    flags = "--build-context python=docker-image://localhost/mirror/python:1 --target=base"
    mirrored = make_image(podman, project, "localhost/mirrored:1", flags)

    assert image
    assert podman.inspect(mirrored)["Labels"]["mirror"] == "yes"


def test_dependabot_can_read_where_the_base_comes_from(project: Path) -> None:
    """Its expression for a line with FROM allows no variables: docker/lib/dependabot/docker/file_parser.rb."""
    lines = re.findall(r"^FROM .*$", (project / "Dockerfile").read_text(), re.MULTILINE)
    others = [line for line in lines if not re.fullmatch(r"FROM (scratch|python|base|uv)( AS \w+)?", line)]

    assert len(others) == 1
    assert re.fullmatch(r"FROM (([\w-]+\.)+[\w-]+/)?[a-z\d]+(/[a-z\d]+)*:[\w.-]+ AS python", others[0])


def test_uv_of_the_image_is_a_locked_dependency(image: str, project: Path) -> None:
    """So Dependabot moves it with the libraries."""
    groups = tomllib.loads((project / "pyproject.toml").read_text())["dependency-groups"]
    locked = tomllib.loads((project / "uv.lock").read_text())["package"]

    assert image
    assert groups["image"] == [f"uv=={package['version']}" for package in locked if package["name"] == "uv"]


def test_hadolint_has_nothing_to_say(project: Path) -> None:
    checked = run("hadolint", "--failure-threshold=style", "Dockerfile", cwd=project)

    assert (checked.returncode, checked.stdout) == (0, "")


def service_of(way: str, folder: Path) -> Path:
    """A service called order-service that takes its core by this way."""
    if way == "tag":
        return service_at_a_tag(folder / "service", template_repository(folder / "template"), **ANSWERS)
    source = WORKSPACE if way == "workspace" else FOLDER
    (project,) = services_that_share(folder / "my repository", source, "order-service", **ANSWERS)
    return project


def make_image_of_a_way(podman: Podman, project: Path, tag: str, commit: str) -> str:
    flags = " ".join([REPRODUCIBLE, *podman.secret_flags])
    named = [f"IMAGE=localhost/{tag}", "VERSION=0.1.0", f"REVISION={commit}", f"COMMITTED={COMMIT_TIME}"]
    made = podman.run("make", "image", "ENGINE=podman", *named, f"BUILD_FLAGS={flags}", cwd=project)
    assert made.returncode == 0, made.stdout
    return f"localhost/{tag}:0.1.0"


@pytest.fixture(scope="module")
def projects(project: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The service of each way."""
    return {"vendored": project} | {way: service_of(way, tmp_path_factory.mktemp(way)) for way in WAYS[1:]}


@pytest.fixture(scope="module")
def images(podman: Podman, image: str, projects: dict[str, Path], commit: str) -> dict[str, str]:
    """The image of each way."""
    return {"vendored": image} | {way: make_image_of_a_way(podman, projects[way], way, commit) for way in WAYS[1:]}


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
    contents = {way: layers(podman, image) for way, image in images.items()}

    assert contents == dict.fromkeys(WAYS, contents["vendored"])


def test_flags_of_the_guide_build_without_make(
    podman: Podman, images: dict[str, str], projects: dict[str, Path], commit: str
) -> None:
    project = projects["workspace"]
    guide = (project / "../../libs/chassis/docs/sharing-the-core.md").read_text()
    (of_the_guide,) = re.findall(r"^\$ docker build (.*) \.$", guide, re.MULTILINE)
    assert run("make", "contexts", cwd=project).returncode == 0

    flags = [*REPRODUCIBLE.split(), *podman.secret_flags, f"--build-arg=REVISION={commit}", *of_the_guide.split()]
    built = podman.run("podman", "build", *flags, "--tag=flags", ".", cwd=project)

    assert built.returncode == 0, built.stdout
    assert layers(podman, "localhost/flags") == layers(podman, images["workspace"])


def test_change_of_the_service_and_of_the_shared_folder_leaves_the_dependencies_where_they_are(
    podman: Podman, images: dict[str, str], projects: dict[str, Path], tmp_path: Path
) -> None:
    shutil.copytree(projects["folder"].parents[1], tmp_path / "changed")
    project = tmp_path / "changed" / projects["folder"].relative_to(projects["folder"].parents[1])
    commit_all(project)
    (project / "LICENSE").unlink()  # as in a service that has none
    settings = next(project.glob("src/*/settings.py"))
    settings.write_text(settings.read_text().replace("1_000", "2_000"))
    (project / "../../libs/chassis/src/chassis/novelty.py").write_text("ONE = 1\n")
    where = "/app/service/chassis/novelty.py"
    changed = make_image(podman, project, "localhost/changed:0.1.0")
    before, after = layers(podman, images["folder"]), layers(podman, changed)

    assert podman.inspect(changed)["Labels"]["org.opencontainers.image.revision"].endswith("-dirty")
    assert [one == other for one, other in zip(before, after, strict=True)] == [True] * (len(before) - 1) + [False]
    assert inside(podman, images["folder"], f"test -e {where} || echo none") == "none"
    assert inside(podman, changed, f"cat {where}") == "ONE = 1"
    assert "2_000" in inside(podman, changed, "cat /app/service/order_service/settings.py")
