"""Our candidate: the template, rendered from a commit or the working tree, with the benchmark's handlers, installed."""

import re
import shutil
import sys
from pathlib import Path

from .processes import ROOT, BenchError, run

PACKAGE = "bench_service"
SOURCE = Path(__file__).parent / "service/app.py"
WITH_PARTS = ("asyncpg_app.py", "auth_app.py", "calling_app.py", "sqlalchemy_app.py")
# All environments have the same server libraries, in the versions of the service.
SHARED = ("httptools", "uvloop", "pydantic", "uvicorn")
PEERS = (
    "fastapi>=0.121",
    "opentelemetry-exporter-otlp-proto-http>=1.39",
    "opentelemetry-instrumentation-fastapi>=0.60b0",
    "opentelemetry-sdk>=1.39",
    "orjson>=3.10.12",
    "prometheus-fastapi-instrumentator>=7.1",
    "structlog>=25.1",
    *SHARED,
)
# opentelemetry-instrumentation-sqlalchemy rejects 2.1, so that all candidates have 2.0.
DRIVERS = ("asyncpg>=0.32", "sqlalchemy[asyncio]>=2.0.40,<2.1")
# Clients of other services, each in its newest version.
CLIENTS = ("httpx", "httpx2", "niquests", "aiohttp", "pyreqwest")
SERVERS = ("gunicorn>=25", "uvicorn-worker>=0.4", "granian>=2.5")
INSTRUMENTATION = "opentelemetry-instrumentation-sqlalchemy>=0.60b0"
# The libraries that make outbound calls; aiohttp in the same version for all.
CALLER = "aiohttp>=3.14"
# Without sniffio, httpcore looks for it at each lock, eight times for each request: 0.6 ms of CPU.
USUAL_CALLERS = ("httpx", "sniffio", "opentelemetry-instrumentation-httpx>=0.60b0")
VERIFIER, USUAL_VERIFIER = "joserfc>=1.6", "pyjwt[crypto]>=2.10"
SHOWN = (
    *SHARED,
    *("starlette", "fastapi", "structlog", "prometheus-client", "opentelemetry-sdk", "asyncpg", "sqlalchemy"),
    *CLIENTS,
    *("joserfc", "pyjwt", "cryptography"),
    *("gunicorn", "granian"),
)
# Inserted into app.py of a commit before the seam `App(settings)`.
OLD_IMPORT = "from .chassis import "
OLD_ROUTES = """
            Route("/items", Items()),
            Route("/items/{item_id}", OneItem()),"""


class Installer:
    """Renders services and makes virtual environments of one Python below `folder`."""

    def __init__(self, python: str, folder: Path, *, smoke: bool = False) -> None:
        self.folder = folder
        self._smoke = smoke
        self._made: set[str] = set()
        ask = "import platform, sys; print(sys.executable); print(platform.python_version())"
        self._python, self.version = run([python, "-c", ask]).split()
        if tuple(int(part) for part in self.version.split(".")[:2]) < (3, 11):
            raise BenchError(f"Python {self.version} is too old; use 3.11 or newer with --python")

    def service(self, name: str, commit: str | None = None, like: Path | None = None) -> Path:
        """Install the service of `commit`, else the working tree, with the versions of `like`; returns its Python."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        template = ROOT
        if commit:
            template, archive = folder / "template", folder / "template.tar"
            template.mkdir()
            run(("git", "archive", "--output", archive, commit))
            run(("tar", "--extract", "--file", archive, "--directory", template))
        # cookiecutter keeps its last answers in the home directory.
        options = ("project_name=Bench Service", "--no-input", "--default-config", "--output-dir", folder)
        run((sys.executable, "-m", "cookiecutter", template, *options), HOME=str(folder))
        rendered = folder / "bench-service"
        extend(rendered / "src" / PACKAGE)
        again = ["--reinstall-package", "bench-service", "--reinstall-package", "asgi-chassis"]
        return self._environment(name, *again, rendered, *(pins(like) if like else []))

    def peers(self, like: Path, *, bare: bool = False) -> Path:
        """Install the peers, or `bare` what serves, in the versions that the service has; returns their Python."""
        return self._environment(
            "peers", *(SHARED if bare else PEERS), *(pin for pin in pins(like) if pin.split("==")[0] in SHARED)
        )

    def add_drivers(self, service: Path, peers: Path, *, bare: bool) -> None:
        """Install what candidates with a database need, in the same versions for all."""
        self._install(service, *DRIVERS)
        same = ("asyncpg", "orjson") if bare else ("asyncpg", "orjson", "sqlalchemy")
        others = () if bare else (*DRIVERS, INSTRUMENTATION)
        self._install(peers, *(pin for pin in pins(service) if pin.split("==")[0] in same), *others)

    def clients(self, like: Path, *, bare: bool = False) -> Path:
        """Install the core with its clients, and unless `bare` others, in the versions that the service has."""
        core = f"asgi-chassis[client] @ {(ROOT / 'chassis').as_uri()}"
        again = ("--reinstall-package", "asgi-chassis")
        return self._environment("clients", *again, core, *(() if bare else CLIENTS), *pins(like))

    def add_callers(self, service: Path, peers: Path, *, bare: bool) -> None:
        """Install what candidates with outbound calls need."""
        self._install(service, CALLER)
        same = (pin for pin in pins(service) if pin.split("==")[0] in ("aiohttp", "orjson"))
        self._install(peers, *same, *(() if bare else USUAL_CALLERS))

    def add_verifiers(self, service: Path, peers: Path, *, bare: bool) -> None:
        """Install what verifies tokens, with the same cryptography for all."""
        self._install(service, VERIFIER)
        if not bare:
            same = (pin for pin in pins(service) if pin.split("==")[0] == "cryptography")
            self._install(peers, USUAL_VERIFIER, *same)

    def add_servers(self, peers: Path) -> None:
        """Install servers with several worker processes."""
        self._install(peers, *SERVERS)

    def _environment(self, name: str, *packages: str | Path) -> Path:
        folder = self.folder / "venvs" / f"{name}-{self.version}"
        python = folder / "bin/python"
        if name not in self._made:
            # Libraries of an earlier run's sections take memory, and time to start: structlog imports greenlet.
            self._made.add(name)
            run(["uv", "venv", "--quiet", "--clear", "--python", self._python, folder], UV_PYTHON_DOWNLOADS="never")
        self._install(python, *packages)
        return python

    def _install(self, python: Path, *packages: str | Path) -> None:
        # As in the image: compiled, and not editable. Compiling takes too long where no times are of interest.
        compiled = () if self._smoke else ("--compile-bytecode",)
        command = ("uv", "pip", "install", "--quiet", *compiled, "--python", python)
        run((*command, *packages), UV_NO_EDITABLE="1")


def pins(python: Path) -> list[str]:
    """The libraries of an environment as requirements, without what was installed from a folder."""
    frozen = run(["uv", "pip", "freeze", "--python", python]).splitlines()
    return [line for line in frozen if "==" in line]


def versions(python: Path) -> dict[str, str]:
    """The versions that the report names."""
    found = dict(line.split("==") for line in pins(python))
    return {name: found[name] for name in SHOWN if name in found}


def extend(package: Path) -> None:
    """Add the benchmark's handlers as an owner would."""
    app = package / "app.py"
    rendered, ours = app.read_text(), SOURCE.read_text()
    if re.search(r"\bApp\(settings\b", rendered):
        app.write_text(ours)
        for name in WITH_PARTS:
            shutil.copy(SOURCE.with_name(name), package)
        return
    # A commit before the seam: a module of handlers, and lines in app.py.
    handlers = ours.partition("\n\ndef create_app")[0].replace("from chassis import App, ChassisSettings, ", OLD_IMPORT)
    (package / "items.py").write_text(handlers)
    rendered, imports = re.subn(r"(?m)^(?=from \.settings )", "from .items import Items, OneItem\n", rendered)
    rendered, routes = re.subn(r"\n +routes=\[", lambda found: found[0] + OLD_ROUTES, rendered)
    if (imports, routes) != (1, 1):
        raise BenchError("app.py of this commit has another form; update extend() in benchmarks/service.py")
    app.write_text(rendered)
