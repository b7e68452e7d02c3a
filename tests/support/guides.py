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
            if "import Field" not in text:
                text = text.replace(imports, f"{imports}from pydantic import Field\n")
            path.write_text(f"{text}\n{block}")
        elif name == "app.py":
            extend_app(project, block)
        else:
            path = project / name if name.startswith("tests/") else path
            assert not path.exists()
            path.write_text(block)
    for row in re.findall(r"```markdown\n(.*\n)```", guide):
        readme = project / "README.md"
        before, table, after = readme.read_text().partition("| variable | default | meaning |\n")
        rows, end, after = after.partition("\n\n")
        readme.write_text(f"{before}{table}{rows}\n{row.rstrip()}{end}{after}")


def checked(project: Path, python: Path) -> None:
    """Its tools accept it, but that imports could be in another order."""
    run(python.with_name("ruff"), "check", "--fix", "--select=I", ".", cwd=project)
    check(project, python)
    own = ("tests/test_orders.py", "tests/test_contract.py", "-k", "order or table or openapi")
    check(project, python, ("pytest", "-q", "--no-cov", "-p", "no:cacheprovider", *own))
