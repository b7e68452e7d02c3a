"""The virtual environments: ours, the peers', and the tools', all on one Python with one uvicorn."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from .processes import BenchError, run_quietly

REQUIREMENTS = Path(__file__).parent / "requirements"
# What serves must be the same for all who are compared.
SHARED = ("uvicorn", "httptools", "uvloop", "pydantic")
SHOWN = (
    *SHARED,
    "starlette",
    "fastapi",
    "litestar",
    "structlog",
    "orjson",
    "prometheus-client",
    "prometheus-fastapi-instrumentator",
    "opentelemetry-sdk",
    "opentelemetry-instrumentation-fastapi",
    "opentelemetry-exporter-otlp-proto-http",
)


@dataclass(frozen=True, slots=True)
class Environments:
    """Pythons by the name of their environment: `tools`, `service`, `peers`, `litestar`."""

    pythons: dict[str, Path]
    version: str

    def versions(self) -> dict[str, str]:
        """Versions of what matters; a library that differs between environments is shown with both."""
        found: dict[str, list[str]] = {}
        for name in ("service", "peers", "litestar"):
            for package, version in _installed(self.pythons[name]).items():
                if package in SHOWN and version not in found.setdefault(package, []):
                    found[package].append(version)
        differing = [package for package in SHARED if len(found.get(package, [])) != 1]
        if differing:
            raise BenchError(f"candidates differ in {', '.join(differing)}; remove benchmarks/.work and run again")
        return {"python": self.version} | {name: " / ".join(found[name]) for name in SHOWN if name in found}


class EnvironmentMaker:
    """Makes what is missing, with uv, below `folder`."""

    def __init__(self, uv: str, python: str, folder: Path) -> None:
        self._uv = uv
        self._folder = folder
        self._env = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
        ask = (
            "import json, platform, sys; "
            "print(json.dumps([sys.executable, platform.python_version(), sys.version_info[:2]]))"
        )
        self._python, self.version, short = json.loads(run_quietly([python, "-c", ask]))
        if tuple(short) < (3, 11):
            raise BenchError(f"Python {self.version} is too old: the service needs 3.11; choose another with --python")

    def tools(self) -> Path:
        """For the renderer and the collector."""
        return self._make("tools", "-r", REQUIREMENTS / "tools.txt")

    def all(self, service: Path, tools: Path) -> Environments:
        """For the candidates; `service` is the folder of the rendered service."""
        ours = self._make("service", "-e", service)
        installed = _installed(ours)
        same = [f"{package}=={installed[package]}" for package in SHARED]
        peers = self._make("peers", "-r", REQUIREMENTS / "peers.txt", *same)
        litestar = self._make("litestar", "-r", REQUIREMENTS / "litestar.txt", *same)
        return Environments({"tools": tools, "service": ours, "peers": peers, "litestar": litestar}, self.version)

    def _make(self, name: str, *wanted: str | Path) -> Path:
        folder = self._folder / f"{name}-{self.version}"
        python = folder / "bin" / "python"
        if not python.exists():
            run_quietly([self._uv, "venv", "--quiet", "--python", self._python, folder], env=self._env)
        run_quietly([self._uv, "pip", "install", "--quiet", "--python", python, *wanted], env=self._env)
        return python


def _installed(python: Path) -> dict[str, str]:
    ask = (
        "import json; from importlib.metadata import distributions; "
        "print(json.dumps({one.metadata['Name'].lower().replace('_', '-'): one.version for one in distributions()}))"
    )
    found: dict[str, str] = json.loads(run_quietly([python, "-c", ask]))
    return found
