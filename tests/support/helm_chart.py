"""Renders and checks a chart with Helm 4, which a wheel contains. Run as a process, because it loads Helm's Go library.

    python tests/support/helm_chart.py <chart> <release> <namespace> <Kubernetes version>

Standard input has a JSON list of values, which count more from left to right. Prints JSON: the manifests by template,
the findings of `helm lint --strict`, and an error.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import helm_python
import yaml

Values = Mapping[str, Any]


class Rendered(NamedTuple):
    """The result of rendering a chart."""

    manifests: list[dict[str, Any]]
    findings: list[str]
    """Warnings and errors of the linter."""
    error: str
    """Empty if the chart was rendered."""


def render(chart: Path, *values: Values, release: str = "order-service", version: str = "v1.34.0") -> Rendered:
    """Render a chart with values, and lint it."""
    command = [sys.executable, __file__, str(chart), release, "some", version]
    environment = {**os.environ, "GOGC": "off"}  # Helm's library is written in Go, and the process is short
    done = subprocess.run(
        command, env=environment, input=json.dumps(values), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    documents = [one for text in said["manifests"].values() for one in yaml.safe_load_all(text)]
    return Rendered([one for one in documents if one], said["findings"], said["error"])


def merge(base: Values, changes: Values) -> dict[str, Any]:
    """As Helm merges one file of values into another."""
    merged = dict(base)
    for name, value in changes.items():
        old = merged.get(name)
        merged[name] = merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def main() -> None:
    """Print the result as JSON."""
    path, release, namespace, version = sys.argv[1:]
    values: dict[str, Any] = {}
    for one in json.load(sys.stdin):
        values = merge(values, one)
    linted = helm_python.lint(path, values, strict=True, kube_version=version)
    findings = [one["error"] for one in linted["messages"] if one["severity"] > 1] + linted["errors"]
    manifests, error = {}, ""
    try:
        with helm_python.Chart.load(path) as chart:
            chart.validate_schema(values)
            manifests = chart.render(values, name=release, namespace=namespace, is_install=True)
    except helm_python.HelmError as problem:
        error = str(problem)
    print(json.dumps({"manifests": manifests, "findings": findings, "error": error}))


if __name__ == "__main__":
    main()
