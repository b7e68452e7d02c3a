"""Begins a request handler: its module, its test, and its import and route in app.py.

    python scripts/handler.py invoices

Writes nothing at all when the name is taken, or when app.py isn't of the shape that it was made in.
"""

import ast
import keyword
import re
import sys
from pathlib import Path

HANDLER = '''"""{title}."""

from ..chassis import Handler


class {name}(Handler):
    """All {words}."""

    async def get(self) -> list[str]:
        """List {words}."""
        return []
'''
TEST = '''"""{title}."""

import httpx

from {package}.app import create_app
from {package}.chassis import Server
from {package}.settings import Settings


async def test_{module}_are_listed() -> None:
    app = create_app(Settings(_env_file=None))  # type: ignore[call-arg]
    async with (
        Server(app, port=0) as server,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{{server.port}}", trust_env=False) as client,
    ):
        answer = await client.get("{path}")
    assert (answer.status_code, answer.json()) == (200, [])
'''
INDENT = 4


class RefusedError(Exception):
    """Why nothing was written."""


def with_handler(source: str, module: str, name: str, path: str) -> str:
    """The source of app.py with one more import and one more route; RefusedError if there is no place for them."""
    tree = ast.parse(source)
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.level == 1]
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    keywords = [one for call in calls if ast.unparse(call.func) == "App" for one in call.keywords]
    routes = [one.value for one in keywords if one.arg == "routes" and isinstance(one.value, ast.List)]
    chassis = [node for node in imports if node.module == "chassis" and node.lineno == node.end_lineno]
    if len(routes) != 1 or len(chassis) != 1:
        raise RefusedError("app.py has no single App(routes=[...]), or doesn't import it in one line")
    if any(isinstance(node, ast.Constant) and node.value == path for node in ast.walk(routes[0])):
        raise RefusedError(f"app.py has a route {path} already")
    if re.search(rf"\b{name}\b", source):
        raise RefusedError(f"app.py uses the name {name} already")

    lines = source.splitlines(keepends=True)
    route = f'Route("{path}", {name}()),'
    first, last = routes[0].lineno - 1, (routes[0].end_lineno or 0) - 1
    column = (routes[0].end_col_offset or 0) - 1
    if first == last and routes[0].elts:
        raise RefusedError("the routes of app.py stand on one line; write them one below the other")
    outer = " " * (len(lines[first]) - len(lines[first].lstrip()))
    inner = f"{outer}{' ' * INDENT}{route}\n"
    if first == last:  # routes=[]
        lines[first] = f"{lines[first][:column]}\n{inner}{outer}{lines[first][column:]}"
    else:
        lines.insert(last, inner)
    if not any(alias.name == "Route" for alias in chassis[0].names):
        names = sorted([*map(ast.unparse, chassis[0].names), "Route"])
        lines[chassis[0].lineno - 1] = f"from .chassis import {', '.join(names)}\n"
    following = [node for node in imports if (node.module or "") > f"handlers.{module}"]
    at = following[0].lineno - 1 if following else imports[-1].end_lineno
    lines.insert(at or 0, f"from .handlers.{module} import {name}\n")
    return "".join(lines)


def add(name: str) -> list[Path]:
    """Write everything for one more handler; returns what was written."""
    if not re.fullmatch("[a-z][a-z0-9]*([_-][a-z0-9]+)*", name) or len(name) > 40:
        raise RefusedError(f"{name!r} is not lower case words with single hyphens, such as: invoices or credit-notes")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or keyword.issoftkeyword(module):
        raise RefusedError(f"{name!r} is a word of the Python language")
    (app,) = Path("src").glob("*/app.py")
    words = module.replace("_", " ")
    facts = {
        "module": module,
        "name": "".join(word.capitalize() for word in module.split("_")),
        "words": words,
        "title": words.capitalize(),
        "path": f"/{name.replace('_', '-')}",
        "package": app.parent.name,
    }
    handler, test = app.parent / "handlers" / f"{module}.py", Path(f"tests/test_{module}.py")
    for path in (handler, test):
        if path.exists():
            raise RefusedError(f"{path} is there already")
    changed = with_handler(app.read_text(encoding="utf-8"), module, facts["name"], facts["path"])

    handler.write_text(HANDLER.format(**facts), encoding="utf-8")
    test.write_text(TEST.format(**facts), encoding="utf-8")
    app.write_text(changed, encoding="utf-8")
    return [handler, test, app]


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("error: which? for example: make handler name=invoices")
    try:
        written = add(sys.argv[1])
    except (RefusedError, ValueError, SyntaxError, OSError) as error:
        sys.exit(f"error: nothing was written: {error}")
    print("Written:", *written, "Next: make check", sep="\n  ")
