"""Guides followed to the letter, in a generated service."""

import re
from pathlib import Path

from bakery import extend_app, package_of, run
from checks import check

BLOCK = re.compile(r"```python\n# (\S+)\n(.*?)```", re.DOTALL)


def follow(project: Path, page: str, section: str | None = None) -> None:
    """Do what this guide says, or a section of it: each block goes into the file that its first line names."""
    package = project / "src" / package_of(project)
    guide = (project / "chassis/docs" / page).read_text()
    if section is not None:
        guide = guide.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = BLOCK.findall(guide)
    assert blocks
    for name, block in blocks:
        path = package / name
        if name == "settings.py":
            imports = "from chassis import ChassisSettings\n"
            text = path.read_text()
            further = "".join(re.findall(r"^from .*\n", block, re.MULTILINE))
            if "import Field" not in text:
                further += "from pydantic import Field\n"
            text = text.replace(imports, imports + further)
            own = re.sub(r"^from .*\n+", "", block, flags=re.MULTILINE)
            lines = "\n" if own.startswith(" ") else "\n\n"  # fields of the service's class, or a class
            path.write_text(f"{text.rstrip()}\n{lines}{own}")
        elif name == "app.py":
            extend_app(project, block)
        else:
            path = project / name if name.startswith("tests/") else path
            assert not path.exists()
            path.write_text(block)


def write_settings_page(project: Path, python: Path) -> None:
    """Do what `make settings` does."""
    settings = f"{package_of(project)}.settings:Settings"
    command = (python, "-m", "chassis.settings_page", settings, "docs/settings.md", "README.md", ".env.example")
    done = run(*command, cwd=project, PYTHONPATH="src")
    assert done.returncode == 0, done.stdout


def checked(project: Path, python: Path) -> None:
    """Write the page of the settings; the service's tools accept it, but that imports could be in another order."""
    write_settings_page(project, python)
    run(python.with_name("ruff"), "check", "--fix", "--select=I", ".", cwd=project)
    check(project, python)
    own = ("tests/test_orders.py", "tests/test_contract.py", "-k", "order or table or openapi")
    check(project, python, ("pytest", "-q", "--no-cov", "-p", "no:cacheprovider", *own))
