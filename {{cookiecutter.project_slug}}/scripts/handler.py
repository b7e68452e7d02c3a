"""Writes a new request handler: a package, a test, and an import and a route in app.py.

    python scripts/handler.py invoices

Writes nothing if the name is taken, or if app.py no longer has a create_app(...) that ends with `return app`.
"""

import ast
import keyword
import re
import sys
from pathlib import Path

PACKAGE = '"""{title}."""\n'
HANDLER = '''"""Request handlers for {words}."""

from chassis import Handler


class {name}(Handler):
    """All {words}."""

    async def get(self) -> list[str]:
        """List {words}."""
        return []
'''
TEST = '''"""{title}."""

import httpx


async def test_{module}_are_listed(client: httpx.AsyncClient) -> None:
    response = await client.get("{path}")
    assert (response.status_code, response.json()) == (200, [])
'''


class RefusedError(Exception):
    """The reason why nothing was written."""


def with_route(source: str, module: str, name: str, path: str) -> str:
    """Return app.py with a new import and route; raises `RefusedError` if it finds no place for them."""
    tree = ast.parse(source)
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "create_app"]
    if len(functions) != 1 or ast.unparse(functions[0].body[-1]) != "return app":
        raise RefusedError("app.py has no create_app(...) that ends with `return app`; add the route yourself")
    if any(isinstance(node, ast.Constant) and node.value == path for node in ast.walk(functions[0])):
        raise RefusedError(f"app.py already has the route {path}; choose another name")
    if re.search(rf"\b{name}\b", source):
        raise RefusedError(f"app.py already uses the name {name}; choose another name")

    lines = source.splitlines(keepends=True)
    routes = [node for node in functions[0].body if ast.unparse(node).startswith("app.add_route(")]
    # After the last route, else before the `return`.
    at = routes[-1].end_lineno if routes else functions[0].body[-1].lineno - 1
    lines.insert(at or 0, f'    app.add_route("{path}", {name}())\n')
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 1]
    if not imports:
        raise RefusedError("app.py has no import from its package; add one, such as: from .settings import Settings")
    following = [node for node in imports if (node.module or "") > f"{module}.handlers"]
    at = following[0].lineno - 1 if following else imports[-1].end_lineno
    lines.insert(at or 0, f"from .{module}.handlers import {name}\n")
    return "".join(lines)


def add(name: str) -> list[Path]:
    """Write the files of a new handler; returns their paths."""
    if not re.fullmatch("[a-z][a-z0-9]*([_-][a-z0-9]+)*", name) or len(name) > 40:
        raise RefusedError(
            f"name {name!r} must be at most 40 lower-case letters, digits and single hyphens, such as: credit-notes"
        )
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or keyword.issoftkeyword(module):
        raise RefusedError(f"name {name!r} is a Python keyword; choose another name")
    (app,) = Path("src").glob("*/app.py")
    words = module.replace("_", " ")
    facts = {
        "module": module,
        "name": "".join(word.capitalize() for word in module.split("_")),
        "words": words,
        "title": words.capitalize(),
        "path": f"/{name.replace('_', '-')}",
    }
    folder, test = app.parent / module, Path(f"tests/test_{module}.py")
    for path in (folder, folder.with_suffix(".py"), test):
        if path.exists():
            raise RefusedError(f"{path} already exists; choose another name")
    changed = with_route(app.read_text(encoding="utf-8"), module, facts["name"], facts["path"])

    folder.mkdir()
    files = {folder / "__init__.py": PACKAGE, folder / "handlers.py": HANDLER, test: TEST}
    for path, content in files.items():
        path.write_text(content.format(**facts), encoding="utf-8")
    app.write_text(changed, encoding="utf-8")
    return [*files, app]


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("error: name is not set; give the name of the handler, such as: make handler name=invoices")
    try:
        written = add(sys.argv[1])
    except (RefusedError, ValueError, SyntaxError, OSError) as error:
        sys.exit(f"error: nothing was written: {error}")
    print("Created:", *written, "Next: make check", sep="\n  ")
