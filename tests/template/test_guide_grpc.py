"""The guide "gRPC beside HTTP" is followed to the letter, with generated code, a real client and a real shutdown."""

import re
import shlex
import sys
from pathlib import Path

import grpc
import kubernetes_validate
import pytest
import yaml
from kubernetes_validate.utils import all_versions, major_minor
from packaging.version import Version

from bakery import TEMPLATE, render, run
from chassis.grpc.status import CODES, code_of
from checks import check
from guides import BLOCK, follow, write_settings_page
from manifests import Manifests, add_image, kustomize
from running import running

PYTHON = Path(sys.executable)  # has grpcio and the generator, which a service adds for this guide
PAGE = "grpc.md"
GUIDE = (TEMPLATE / "chassis/docs" / PAGE).read_text()
MANIFEST = re.compile(r"```yaml\n# (\S+)\n(.*?)```", re.DOTALL)
TEA, LEVEL_OF_TEA = b"\n\x03tea", b"\n\x03tea\x10\x0c"  # as protobuf encodes them
NEWEST = max({major_minor(one) for one in all_versions()}, key=Version)
pytestmark = pytest.mark.long


def block(language: str) -> str:
    """The only block of a language, which is part of a list."""
    (found,) = re.findall(rf"^ *```{language}\n(.*?)^ *```", GUIDE, re.DOTALL | re.MULTILINE)
    return re.sub(r"^   ", "", found, flags=re.MULTILINE)


def change_tools(path: Path) -> None:
    """Change the tables of pyproject.toml as the guide says: lines replace those of the same key."""
    text = path.read_text()
    for table, lines in re.findall(r"^(\[+[^\n]+\]+)\n(.*?)(?=^\[|\Z)", block("toml"), re.DOTALL | re.MULTILINE):
        if f"{table}\n" not in text:
            text += f"\n{table}\n{lines}"
            continue
        for line in lines.strip().splitlines():
            key = line.partition(" = ")[0]
            head, _, rest = text.partition(f"{table}\n")
            own, mark, after = rest.partition("\n[")
            new = line.replace("\\", r"\\")
            own, count = re.subn(rf"^{re.escape(key)} = .*$", new, own, flags=re.MULTILINE)
            text = f"{head}{table}\n{'' if count else line + chr(10)}{own}{mark}{after}"
    path.write_text(text)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A service with the code of the guide."""
    project = render(tmp_path_factory.mktemp("grpc"), {"example": "none"})
    name, proto = re.fullmatch(r"// (\S+)\n(.*)", block("proto"), re.DOTALL).groups()  # type: ignore[union-attr]
    (project / name).parent.mkdir(parents=True)
    (project / name).write_text(proto)
    command = shlex.split(block("sh"))
    assert command[:3] == ["uv", "run", "python"]
    done = run(PYTHON, *command[3:], cwd=project)
    assert done.returncode == 0, done.stdout
    change_tools(project / "pyproject.toml")
    (setting,) = re.findall(r"`(SETTINGS: dict\[str, str\] = \{.*?\})`", GUIDE)
    conftest = project / "tests/conftest.py"
    assert "SETTINGS: dict[str, str] = {}" in conftest.read_text()
    conftest.write_text(conftest.read_text().replace("SETTINGS: dict[str, str] = {}", setting))
    follow(project, PAGE)
    (classes,) = [text for name, text in BLOCK.findall(GUIDE) if name == "settings.py"]
    settings = project / "src/order_service/settings.py"
    settings.write_text(f'"""Settings."""\n\nfrom chassis import ChassisSettings\n{classes}')
    write_settings_page(project, PYTHON)
    run(PYTHON.with_name("ruff"), "check", "--fix", "--select=I", ".", cwd=project)  # the order of imports alone
    return project


def test_code_and_tests_of_the_guide_pass(project: Path) -> None:
    check(project, PYTHON)
    check(project, PYTHON, ("pytest", "-q", "tests/test_stock.py"))


def test_service_of_the_guide_runs_and_stops(project: Path, tmp_path: Path) -> None:
    variables = {"APP_GRPC_PORT": "0", "APP_DRAIN_SECONDS": "0"}
    with running(PYTHON, project, tmp_path, **variables) as service:
        http = service.ready().http
        port = service.event("listening for gRPC")["port"]
        with grpc.insecure_channel(f"localhost:{port}") as channel:
            get_level = channel.unary_unary(
                "/stock.v1.Stock/GetLevel", request_serializer=bytes, response_deserializer=bytes
            )
            assert get_level(TEA, timeout=10) == LEVEL_OF_TEA
        line = service.event("call")
        shown = re.search(r'^\{"level".*\}$', GUIDE, re.MULTILINE)
        assert shown is not None
        keys = re.findall(r'"(\w+)": ', shown[0])
        assert {*line} == {*keys, "timestamp"}
        assert documented("rpc_") == exposed(http.get("/metrics").text, "rpc_")
        assert http.get("/readyz").json()["checks"]["background task gRPC server"]["status"] == "pass"
        assert service.end() == 0


def documented(prefix: str) -> set[str]:
    """The metrics in the first column of the tables of the guide "metrics.md"."""
    cells = re.findall(r"^\| (.*?) \|", (TEMPLATE / "chassis/docs/metrics.md").read_text(), re.MULTILINE)
    return {name for cell in cells for name in re.findall(rf"`({prefix}\w+)`", cell)}


def exposed(text: str, prefix: str) -> set[str]:
    """The metrics of a service."""
    return {name for name in re.findall(rf"^# TYPE ({prefix}\w+)", text, re.MULTILINE) if not name.endswith("_created")}


def test_table_of_the_guide_has_the_codes() -> None:
    rows = [line.split("|") for line in GUIDE.partition("| status | code |")[2].splitlines()[2:9]]
    cells = [pair for row in rows for pair in ((row[1], row[2]), (row[4], row[5])) if "other" not in pair[0]]
    shown = {int(status): code.strip(" `") for statuses, code in cells for status in re.findall(r"\d{3}", statuses)}
    assert shown == {status: code.name for status, code in CODES.items() if status != 500}
    assert [code_of(status).name for status in (418, 500, 599)] == ["FAILED_PRECONDITION", "INTERNAL", "INTERNAL"]


@pytest.mark.parametrize("overlay", ["dev", "production"])
def test_component_opens_the_port(project: Path, overlay: str) -> None:
    add_image(project, overlay)
    for name, text in MANIFEST.findall(GUIDE):
        if name.startswith("deploy/"):
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_text(text)
    path = project / "deploy/overlays" / overlay / "kustomization.yaml"
    document = yaml.safe_load(path.read_text())
    document["components"] = [*document.get("components", []), "../../components/grpc"]
    path.write_text(yaml.safe_dump(document))
    manifests = Manifests(kustomize(path.parent))
    for one in manifests.all:
        if "k8s.io" in one["apiVersion"] or "/" not in one["apiVersion"] or one["apiVersion"].startswith("apps"):
            assert kubernetes_validate.validate(one, NEWEST, strict=True) == NEWEST
    assert manifests.ports["grpc"] == 50051
    services = {one["metadata"]["name"]: one["spec"] for one in manifests.all if one["kind"] == "Service"}
    headless = services["order-service-grpc"]
    assert headless["clusterIP"] == "None"
    assert headless["selector"] == services["order-service"]["selector"]
    assert headless["ports"][0]["targetPort"] == "grpc"
    (policy,) = (one for one in manifests.all if one["kind"] == "NetworkPolicy")
    assert any(port["port"] == 50051 for rule in policy["spec"]["ingress"] for port in rule.get("ports", []))


def test_probes_of_the_guide_are_valid(project: Path) -> None:
    (probes,) = [yaml.safe_load(text) for name, text in MANIFEST.findall(GUIDE) if name == "probes"]
    manifests = Manifests(kustomize(project / "deploy/base"))
    deployment = manifests["Deployment"]
    deployment["spec"]["template"]["spec"]["containers"][0] |= probes
    assert kubernetes_validate.validate(deployment, NEWEST, strict=True) == NEWEST
