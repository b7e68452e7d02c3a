"""The generated services of a system: two gateways, without and with a policy for their calls, and two backends."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bakery import add_handler, depend_on, package_of, render, run

PARTS = Path(__file__).parent / "gateway_services"
LEFT_OUT = {"example": "none", "deploy": "none", "monitoring": "none", "ci": "none"}
BACKENDS = ("catalogue", "stock")
# The imports and the fields of settings.py, for each kind of gateway.
SETTINGS = {
    "naive": ("", '    catalogue: str = "http://catalogue"\n    stock: str = "http://stock"\n'),
    "client": (
        "from chassis.client import ClientSettings\n",
        (
            '    catalogue: ClientSettings = ClientSettings(base_url="http://catalogue")\n'
            '    stock: ClientSettings = ClientSettings(base_url="http://stock")\n'
        ),
    ),
}


@dataclass(frozen=True)
class Projects:
    """The generated services, and a Python that has what they need."""

    python: Path
    folders: Mapping[str, Path]


def generate(folder: Path, python: Path | None = None) -> Projects:
    """Generate the services, and write their handlers. Gateways are called `naive` and `client`.

    Without a Python that has all that the gateway needs, it gets one of its own.
    """
    folders = {name: render(folder, {"project_name": name.title(), **LEFT_OUT}) for name in (*SETTINGS, *BACKENDS)}
    add_part(folders["catalogue"], "products", "add_products(app)")
    add_part(folders["stock"], "levels", "add_levels(app)")
    for kind in SETTINGS:
        write_gateway(folders[kind], kind)
    depend_on(folders["client"], "client")
    if python is None:
        made = run("make", "install", cwd=folders["client"])
        assert made.returncode == 0, made.stdout
        python = folders["client"] / ".venv/bin/python"
    return Projects(python, folders)


def add_part(project: Path, module: str, line: str) -> None:
    """Add a module, and call its function in app.py."""
    source = (PARTS / f"{module}.py").read_text()
    add_handler(project, module, source, f"from .{module} import {line.partition('(')[0]}", line)


def write_gateway(project: Path, kind: str) -> None:
    """Write the handlers of the gateway, and its settings."""
    path = project / "src" / package_of(project) / "settings.py"
    imported, lines = SETTINGS[kind]
    chassis = "from chassis import ChassisSettings\n"
    text = path.read_text()
    assert chassis in text
    path.write_text(text.replace(chassis, chassis + imported) + "\n" + lines)
    add_part(project, f"{kind}_offers", "add_offers(app, settings.catalogue, settings.stock)")
