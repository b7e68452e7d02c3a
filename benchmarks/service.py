"""Our candidate: the template rendered, and extended as its owner would by a handler module and lines in `app.py`."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

from .processes import BenchError, clean_environment, run_quietly

ROOT = Path(__file__).resolve().parent.parent
NAME = "Bench Service"
SLUG = "bench-service"
PACKAGE = "bench_service"

ROUTES = """
            *[Route(f"/other{number}/{{item_id}}", OneItem()) for number in range(settings.other_routes)],
            Route("/items", Items()),
            Route("/items/{item_id}", OneItem()),
            Route("/computing/{seconds}", Computing()),
            Route("/blob", Blobs()),
            Route("/blob/{size}", Blob()),"""
IMPORT = "from .handlers.items import Blob, Blobs, Computing, Items, OneItem\n"
SETTING = """
    other_routes: int = Field(0, ge=0, description="Routes before the measured one.")
"""
MIDDLEWARES = ("TelemetryMiddleware", "SecurityHeadersMiddleware", "GuardMiddleware")

# What each variant leaves out: middlewares, by their lines in `app.py`, the metrics of the requests, or the time after
# which a thread that computes lets the event loop go on.
VARIANTS: dict[str, tuple[str, ...]] = {
    "whole": (),
    "no-security": ("SecurityHeadersMiddleware",),
    "no-guard": ("GuardMiddleware",),
    "no-telemetry": ("TelemetryMiddleware",),
    "no-metrics": ("metrics",),
    "nothing": MIDDLEWARES,
    "no-switch": ("switch",),
}


def render(tools: Path, folder: Path) -> Path:
    """Render the template with its default answers but the name; gives the service's folder."""
    shutil.rmtree(folder, ignore_errors=True)
    home = folder / "home"  # cookiecutter remembers its last answers in the home directory
    home.mkdir(parents=True)
    run_quietly(
        [tools, "-m", "cookiecutter", "--no-input", "--default-config", "-o", folder, ROOT, f"project_name={NAME}"],
        env=clean_environment({"HOME": str(home)}),
    )
    service = folder / SLUG
    extend(service / "src" / PACKAGE)
    return service


def extend(package: Path) -> None:
    """What an owner would do: a module of handlers, their routes in `app.py`, a setting."""
    shutil.copy(Path(__file__).parent / "service" / "items.py.txt", package / "handlers" / "items.py")
    app = package / "app.py"
    source = app.read_text()
    source = _replace(source, r"\n        routes=\[", lambda found: found + ROUTES)
    source = _replace(source, r"\nfrom \.settings ", lambda found: "\n" + IMPORT + found[1:])
    app.write_text(source)
    settings = package / "settings.py"
    text = _replace(settings.read_text(), r"\n    max_orders: .*\n", lambda found: found + SETTING)
    settings.write_text(text)


def make_variants(service: Path, folder: Path) -> dict[str, Path]:
    """A copy of the sources for each variant; started from there, a copy is found before the installed package."""
    made = {}
    for name, left_out in VARIANTS.items():
        made[name] = folder / name
        shutil.copytree(service / "src", made[name])
        app = made[name] / PACKAGE / "app.py"
        source = app.read_text()
        for one in left_out:
            if one == "switch":
                server = made[name] / PACKAGE / "chassis" / "server.py"
                server.write_text(_replace(server.read_text(), r"\n *sys\.setswitchinterval\(.*", lambda _: ""))
            else:
                source = _without_metrics(source) if one == "metrics" else _without_middleware(source, one)
        app.write_text(source)
    return made


def _without_middleware(source: str, name: str) -> str:
    """`source` without the `Middleware(<name>, …),` of its list."""
    start = re.search(rf" *Middleware\(\s*{name}\b", source)
    if start is None:
        raise BenchError(f"app.py doesn't list {name}; benchmarks/service.py has to follow the template")
    depth = 0
    for index in range(source.index("(", start.start()), len(source)):
        depth += {"(": 1, ")": -1}.get(source[index], 0)
        if depth == 0:
            end = source.index("\n", index) + 1
            return source[: start.start()] + source[end:]
    raise BenchError("app.py has a bracket that isn't closed")


def _without_metrics(source: str) -> str:
    return _replace(
        source,
        r"\n    telemetry = Telemetry\.from_settings\(settings\)",
        lambda found: found + "\n    telemetry.metrics.requests.observe = lambda *_: None",
    )


def _replace(source: str, pattern: str, by: Callable[[str], str]) -> str:
    changed, count = re.subn(pattern, lambda found: by(found[0]), source, count=1)
    if count != 1:
        raise BenchError(f"the rendered service has no {pattern!r}; benchmarks/service.py has to follow the template")
    return changed
