"""The rendered manifests, as `kubectl kustomize` prints them."""

import json
import re
import subprocess
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from bakery import clean_environment, package_of, run
from running import needs

Manifest = dict[str, Any]
OVERLAYS = ("dev", "production")
# The published schemas of custom resources, by their kind.
CUSTOM = yaml.safe_load((Path(__file__).parents[1] / "kubernetes/custom_resources.yaml").read_text())


def kustomize(folder: Path) -> str:
    """The documents that are sent to the API server."""
    needs("kubectl")
    # It takes half of the CPU time if it collects no garbage.
    environment = clean_environment(folder, GOGC="off", GOMAXPROCS="1")
    built = subprocess.run(
        ["kubectl", "kustomize", folder], env=environment, capture_output=True, text=True, check=False
    )
    assert (built.returncode, built.stderr) == (0, ""), built.stderr
    return built.stdout


DIGEST = "sha256:" + "0123456789abcdef" * 4


def add_image(project: Path, overlay: str) -> None:
    """Commit the image to this overlay, as its comment says."""
    path = project / "deploy/overlays" / overlay / "kustomization.yaml"
    document = yaml.safe_load(path.read_text())
    document["images"] = [{"name": "order-service", "newName": "ghcr.io/acme/order-service", "digest": DIGEST}]
    path.write_text(yaml.safe_dump(document))


def add_components(project: Path, overlay: str, without: Collection[str] = ()) -> None:
    """Add all components that fit together to this overlay, as people would."""
    path = project / "deploy/overlays" / overlay / "kustomization.yaml"
    components = sorted(one.name for one in (project / "deploy/components").iterdir())
    document = yaml.safe_load(path.read_text())
    document["components"] = [f"../../components/{one}" for one in components if one not in {"openshift", *without}]
    path.write_text(yaml.safe_dump(document))


def selecting(documents: Iterable[Manifest], labels: Mapping[str, str]) -> list[str]:
    """The kinds and names of the objects that select pods with these labels. An autoscaler does by its Deployment."""
    found = []
    for one in documents:
        spec = one.get("spec", {})
        selector = spec.get("selector", spec.get("podSelector"))
        if not isinstance(selector, dict):
            continue
        wanted = selector.get("matchLabels", {} if "matchExpressions" in selector else selector)
        listed = all(labels.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", []))
        if listed and wanted.items() <= labels.items():
            found.append(f"{one['kind']} {one['metadata']['name']}")
    return found


class Manifests:
    """The documents of an overlay, by their kind."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.all: list[Manifest] = list(yaml.safe_load_all(text))
        # Values of the service's Secret, which the manifests do not contain.
        self.secrets: dict[str, str] = {}

    def __getitem__(self, kind: str) -> Manifest:
        (found,) = (one for one in self.all if one["kind"] == kind)
        return found

    @property
    def settings(self) -> dict[str, str]:
        """The environment that the ConfigMap gives."""
        return self.config_map(self["ConfigMap"]["metadata"]["name"])

    def config_map(self, name: str) -> dict[str, str]:
        """The values of the ConfigMap of this name."""
        (found,) = (one for one in self.all if one["kind"] == "ConfigMap" and one["metadata"]["name"] == name)
        data: dict[str, str] = found["data"]
        return data

    @property
    def pod(self) -> Manifest:
        """The pods' specification."""
        spec: Manifest = self["Deployment"]["spec"]["template"]["spec"]
        return spec

    @property
    def container(self) -> Manifest:
        """Its only container."""
        (container,) = self.pod["containers"]
        assert isinstance(container, dict)
        return container

    @property
    def ports(self) -> dict[str, int]:
        """The container's ports by their names."""
        return {one["name"]: one["containerPort"] for one in self.container["ports"]}


FACTS = """
import json, chassis.health as health, chassis.server as server
from {package}.settings import Settings
print(json.dumps({{
    "defaults": {{f"APP_{{name.upper()}}": field.default for name, field in Settings.model_fields.items()}},
    "check_seconds": health.Check("one", print).timeout,
    "end_seconds": server.END_SECONDS,
}}))
"""


def facts_of(project: Path, python: Path) -> dict[str, Any]:
    """The facts of the code."""
    program = FACTS.format(package=package_of(project))
    said = run(python, "-c", program, cwd=project, PYTHONPATH="src")
    assert said.returncode == 0, said.stdout
    facts = json.loads(said.stdout)
    assert isinstance(facts, dict)
    return facts


def megabytes(quantity: str) -> float:
    """A quantity of memory, such as 96Mi."""
    found = re.fullmatch(r"(\d+)Mi", quantity)
    assert found, quantity
    return int(found[1]) * 1024 * 1024 / 1e6
