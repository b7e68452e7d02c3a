"""Finishes `make update` of a service that was generated before the core became a folder of its own, chassis/.

    python3 <a clone of the template>/scripts/upgrade.py

Run it once in the service, before you resolve any conflict of the update. It

- imports the core from `chassis` in your modules and tests, where they imported it from your package;
- replaces app.py by the new one of the template, and adds your routes, checks, resources, middleware and statements;
- keeps your settings.py;
- resolves conflicts in other files where you only added lines: it keeps your lines and the template's.

It prints each change and each conflict that is left.
"""

import ast
import difflib
import re
import subprocess
import sys
import textwrap
from pathlib import Path

# The method that replaces each list of the former App(...).
METHODS = {"routes": "add_route", "checks": "add_check", "middleware": "add_middleware", "resources": "add_resource"}
CONFLICT = re.compile(
    r"<{7} .*?\n(?P<ours>.*?)\|{7}.*?\n(?P<base>.*?)={7}\n(?P<theirs>.*?)>{7} .*?\n", re.DOTALL | re.MULTILINE
)
# Rows of settings in a README, which `make settings` writes into docs/settings.md now.
SETTINGS_ROWS = re.compile(r"^\| `APP_\w+` \|.*\n", re.MULTILINE)
SIMILAR = 0.8  # the least ratio of difflib at which two lines are one line that was edited


def git(*arguments: str) -> str:
    """The output of git; exits with its message if it fails."""
    done = subprocess.run(["git", *arguments], check=False, capture_output=True, text=True, encoding="utf-8")
    if done.returncode:
        sys.exit(f"{done.stderr}error: git {' '.join(arguments)} failed; see its message above")
    return done.stdout


def import_from_core(source: str, package: str) -> str:
    """Replace imports of the core inside `package` by imports of the distribution."""
    source = re.sub(rf"^(\s*from )(?:\.+|{package}\.)chassis\b", r"\1chassis", source, flags=re.MULTILINE)
    source = re.sub(rf"^(\s*)from (?:\.+|{package}) import chassis\b", r"\1import chassis", source, flags=re.MULTILINE)
    source = re.sub(rf"\b{package}\.chassis\b", "chassis", source)
    # mypy knows now that settings come from the environment.
    return re.sub(r"^(.*\bSettings\(.*\))  # type: ignore\[call-arg\]$", r"\1", source, flags=re.MULTILINE)


class Renaming(ast.NodeTransformer):
    """Gives the parts of a former create_app the names that they have now."""

    def visit_Name(self, node: ast.Name) -> ast.AST:
        """`tasks` and `telemetry` belong to the app."""
        if node.id not in ("tasks", "telemetry"):
            return node
        return ast.Attribute(ast.Name("app", ast.Load()), node.id, node.ctx)


class Page:
    """A former app.py: imports, its other functions, the statements of create_app, and the arguments of App(...)."""

    def __init__(self, source: str) -> None:
        tree = ast.parse(source)
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        (create,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "create_app")
        (app,) = (node for node in ast.walk(create) if isinstance(node, ast.Call) and ast.unparse(node.func) == "App")
        self.imports = dict(entry for node in imports for entry in imported(node))
        self.beside = [ast.unparse(node) for node in tree.body[1:] if node not in imports and node is not create]
        Renaming().visit(create)
        self.statements = [ast.unparse(node) for node in create.body[1:] if not isinstance(node, ast.Return)]
        lists = {word.arg: word.value.elts for word in app.keywords if isinstance(word.value, ast.List)}
        self.calls = [addition(kind, item) for kind in METHODS for item in lists.get(kind, [])]
        self.arguments = {str(word.arg) for word in app.keywords}


def imported(node: ast.Import | ast.ImportFrom) -> list[tuple[str, str]]:
    """Each name that a statement imports, and the statement for it alone."""
    module = f"from {'.' * node.level}{node.module or ''} " if isinstance(node, ast.ImportFrom) else ""
    return [(alias.asname or alias.name, f"{module}import {ast.unparse(alias)}") for alias in node.names]


def addition(kind: str, item: ast.expr) -> str:
    """The statement that adds an item of a list of App(...) now."""
    if isinstance(item, ast.Call) and ast.unparse(item.func) in ("Route", "Check", "Middleware"):
        words = [*map(ast.unparse, item.args), *(f"{word.arg}={ast.unparse(word.value)}" for word in item.keywords)]
        return f"app.{METHODS[kind]}({', '.join(words)})"
    return f"app.{'add_routes' if kind == 'routes' else METHODS[kind]}({ast.unparse(item)})"


def merge_app(base: str, ours: str, theirs: str) -> str:
    """Return `theirs` with the additions of `ours` to `base`; raises ValueError for an unknown argument of App."""
    before, after = Page(base), Page(ours)
    if added := after.arguments - before.arguments:
        raise ValueError(f"App({', '.join(sorted(added))}=...)")
    beside = [text for text in after.beside if text not in before.beside]
    statements = [text for text in after.statements if text not in before.statements]
    calls = [text for text in after.calls if text not in before.calls]
    words = set(re.findall(r"\w+", "\n".join([*beside, *statements, *calls])))
    lines = theirs.splitlines(keepends=True)
    tree = ast.parse(theirs)
    present = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    known = dict(entry for node in present for entry in imported(node))
    imports = [text for name, text in after.imports.items() if name in words and name not in known]

    end = lines.index("    return app\n")
    lines[end:end] = [f"    {text}\n" for text in calls]
    start = next(number for number, line in enumerate(lines) if line.startswith("    app = App(")) + 1
    lines[start:start] = [textwrap.indent(f"{text}\n", "    ") for text in statements]
    last = max(node.end_lineno or 0 for node in present)
    lines[last:last] = [f"{text}\n" for text in imports] + [f"\n\n{text}\n" for text in beside]
    return "".join(lines)


def merge_settings(base: str, ours: str, theirs: str) -> str:
    """Return `ours` with the lines of `base` in it as `theirs` has edited them."""
    before, now = base.splitlines(keepends=True), theirs.splitlines(keepends=True)
    lines = []
    for line in ours.splitlines(keepends=True):
        at = position(line, now) if line in before else None
        lines.append(line if at is None else now[at])
    return "".join(lines)


def merge_lines(base: str, ours: str, theirs: str) -> str | None:
    """Return `theirs` with the lines that `ours` has added; None if both have edited the same lines."""
    old, mine, merged = (text.splitlines(keepends=True) for text in (base, ours, theirs))
    for what, first, last, start, end in difflib.SequenceMatcher(None, old, mine, autojunk=False).get_opcodes():
        if what == "equal":
            continue
        if any(line.strip() and position(line, merged) is not None for line in old[first:last]):
            return None
        above = (position(line, merged) for line in reversed(mine[:start]) if line.strip())
        at = next((found + 1 for found in above if found is not None), len(merged))
        merged[at:at] = mine[start:end]
    return "".join(merged)


def position(line: str, lines: list[str]) -> int | None:
    """The index of the line that is most like `line`; None if none is."""
    match = difflib.get_close_matches(line, lines, n=1, cutoff=SIMILAR)
    return lines.index(match[0]) if match else None


def resolve(path: str, package: str) -> bool:
    """Resolve the conflicts of a file as far as that is safe; returns whether all of them are resolved."""
    base, ours, theirs = (git("show", f":{stage}:./{path}") for stage in (1, 2, 3))
    if path.endswith("/app.py"):
        try:
            text = import_from_core(merge_app(base, ours, theirs), package)
        except ValueError:
            return False
    elif path.endswith("/settings.py"):
        text = merge_settings(base, ours, theirs)
    else:
        git("checkout", "--conflict=diff3", "--", path)
        conflicted = Path(path).read_text(encoding="utf-8")
        text = CONFLICT.sub(lambda match: choose(match) or match[0], conflicted)
    Path(path).write_text(text, encoding="utf-8", newline="\n")
    return "\n>>>>>>> " not in text


def choose(match: re.Match[str]) -> str | None:
    """The lines for a conflict; None if a person must choose."""
    base, ours = (SETTINGS_ROWS.sub("", match[side]) for side in ("base", "ours"))
    return merge_lines(base, ours, match["theirs"])


def main() -> None:
    """Finish an update, and print the conflicts that are left."""
    if not Path("chassis/pyproject.toml").is_file():
        sys.exit(f"error: {Path.cwd()} has no chassis/pyproject.toml; run `make update` in the service first")
    (app,) = Path("src").glob("*/app.py")
    package = app.parent.name
    left = []
    for path in git("diff", "--name-only", "--diff-filter=U", "--relative").splitlines():
        if len(git("ls-files", "--unmerged", "--", path).splitlines()) == 3 and resolve(path, package):
            git("add", "--", path)
            print(f"merged: {path}; review it: git diff HEAD -- {path}")
        else:
            left.append(path)
    for module in sorted([*app.parent.rglob("*.py"), *Path("tests").rglob("*.py")]):
        source = module.read_text(encoding="utf-8")
        changed = import_from_core(source, package)
        if changed != source:
            module.write_text(changed, encoding="utf-8", newline="\n")
            print(f"changed imports: {module.as_posix()}")
    handlers = app.parent / "handlers"
    if handlers.is_dir() and not (handlers / "__init__.py").exists():
        (handlers / "__init__.py").write_text('"""Request handlers."""\n', encoding="utf-8")
    for path in left:
        print(f"left to do: {path}; edit the lines between <<<<<<< and >>>>>>>, then: git add {path}")
    print("Next: resolve the conflicts, if any; then: make fix; make check; git diff HEAD; git add --all; git commit")


if __name__ == "__main__":
    main()
