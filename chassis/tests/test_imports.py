"""The directions of imports inside the core."""

import ast
import re
from collections import defaultdict
from functools import cache
from pathlib import Path

import chassis

ROOT = Path(chassis.__file__).parent
# Modules that every folder may import. They import no folder.
SHARED = {
    "cache",
    "context",
    "faults",
    "problem",
    "proxies",
    "request_info",
    "response_sender",
    "route_limits",
    "threads",
    "version",
    "worker_slot",
}
# The folders that a part may import, beside the shared modules and itself. A part that is missing here may
# import any other part, as long as there is no circle.
FOLDERS = {"api", "http", "middleware", "telemetry"}
# The parts whose libraries come with an extra.
OPTIONAL = {"auth", "grpc", "migrations", "nats", "postgres", "sqlalchemy"}
# The optional parts that an optional part may import.
BUILDS_ON = {"migrations": {"postgres"}, "sqlalchemy": {"postgres"}}
ALLOWED = {
    "api": set[str](),
    "auth": {"api", "app", "server", "telemetry"},
    "client": {"telemetry"},
    "grpc": {"api", "app", "http", "middleware", "telemetry"},
    "http": set[str](),
    "telemetry": set[str](),
    "middleware": {"telemetry"},
    "server": {"app", "http"},
    "server_ports": {"app", "http"},
    "migrations": {"telemetry"},
    "nats": {"api", "app", "telemetry"},
    "postgres": {"api", "app", "telemetry"},
    "sqlalchemy": {"api", "app", "telemetry"},
} | {name: set[str]() for name in SHARED}


def name_of(path: Path) -> str:
    """A module's name inside the core, such as `http.protocol`; empty for the core itself."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """The folder that a module is in, or the module itself when it is in none."""
    return module.partition(".")[0]


def imports_of(path: Path, modules: set[str]) -> set[str]:
    """The modules of the core that a file imports, wherever in the file, for types alone as well."""
    package = path.relative_to(ROOT).parent.parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = [*package[: len(package) - node.level + 1], *(node.module or "").split(".")]
            elif node.module and part_of(node.module) == "chassis":
                base = node.module.split(".")[1:]
            else:
                continue
            source = ".".join(filter(None, base))
            # `from ..telemetry import metrics` names a module, `from ..telemetry import Telemetry` what is in one.
            inner = {".".join(filter(None, [source, alias.name])) for alias in node.names} & modules
            found |= inner or {source}
        elif isinstance(node, ast.Import):
            found |= {one.name.partition(".")[2] for one in node.names if part_of(one.name) == "chassis"}
    return found


@cache
def graph() -> dict[str, set[str]]:
    """The modules that each module imports. The core's `__init__`, which imports names when they are used, aside."""
    paths = {name_of(path): path for path in ROOT.rglob("*.py")}
    return {name: imports_of(path, set(paths)) - {name} for name, path in sorted(paths.items()) if name}


def test_modules_are_found() -> None:
    imports = graph()
    assert {"app", "server", "http.protocol", "api.routing", "telemetry.metrics", "middleware"} <= set(imports)
    assert "settings" in imports["run"]
    assert "problem" in imports["api.endpoint"]
    assert {target for targets in imports.values() for target in targets} <= set(imports)


def test_folders_import_only_what_they_may() -> None:
    wrong = [
        f"{module} -> {target}"
        for module, targets in graph().items()
        for target in sorted(targets)
        if (allowed := ALLOWED.get(part_of(module))) is not None
        and part_of(target) in FOLDERS | ({"app", "server"} - {part_of(module)})
        and part_of(target) not in allowed | {part_of(module)}
    ]
    assert wrong == []


def test_only_the_shared_modules_are_shared_by_folders() -> None:
    wrong = [
        f"{module} -> {target}"
        for module, targets in graph().items()
        if part_of(module) in FOLDERS
        for target in sorted(targets)
        if part_of(target) not in SHARED | FOLDERS
    ]
    assert wrong == []


def test_optional_parts_are_imported_by_no_other_part() -> None:
    wrong = [
        f"{module} -> {target}"
        for module, targets in graph().items()
        for target in sorted(targets)
        if part_of(target) in OPTIONAL - {part_of(module)} - BUILDS_ON.get(part_of(module), set())
    ]
    assert wrong == []


def test_there_are_no_circular_imports() -> None:
    assert circles(graph()) == []


def test_folders_have_no_circles_among_them() -> None:
    parts = defaultdict[str, set[str]](set)
    for module, targets in graph().items():
        parts[part_of(module)] |= {part_of(target) for target in targets} - {part_of(module)}
    assert circles(parts) == []


def circles(imports: dict[str, set[str]]) -> list[list[str]]:
    """Every circle that a walk along the imports meets, each from its first module on."""
    found, done = [], set[str]()

    def walk(module: str, way: list[str]) -> None:
        if module in way:
            found.append([*way[way.index(module) :], module])
        elif module not in done:
            for target in sorted(imports.get(module, ())):
                walk(target, [*way, module])
            done.add(module)

    for module in sorted(imports):
        walk(module, [])
    return found


def test_map_of_the_readme_names_every_module() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    tables = readme.partition("## Map\n")[2].partition("\n## ")[0]
    modules = {path.name for path in ROOT.rglob("*.py") if path.name != "__init__.py"}
    named = set(re.findall(r"`(\w+\.py)`", tables))
    assert modules - named == set()
    assert named - modules == set()


# Names with an underscore that belong to the standard library and are documented there. The last ones are methods of
# named tuples, whose names begin so that they differ from those of fields.
DOCUMENTED = re.compile(r"os\._exit|sys\._current_frames|\w+(\(.*\))?(\.\w+(\(.*\))?)*\._(asdict|replace)")


def test_no_private_part_of_a_library_is_used() -> None:
    private = []
    for path in sorted(ROOT.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names: list[str] = []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
                owner = ast.unparse(node.value)
                names = [] if owner in ("self", "cls", "super()") else [f"{owner}.{node.attr}"]
            private += [name for name in names if re.search(r"(^|\.)_[^_]", name) and not DOCUMENTED.fullmatch(name)]
    assert private == []
