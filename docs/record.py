"""Records the terminal that the README shows: a shell runs the commands, and a picture is drawn of all it said.

    python docs/record.py

Needs bash, git, curl, cookiecutter and uv on the path, and rich (`make recording` has them). Writes terminal.svg
beside itself.
"""

import io
import os
import pty
import re
import select
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.text import Text

HERE = Path(__file__).parent
COLUMNS = 116
PROMPT = "$ "
PATIENCE_SECONDS = 120
CURL = r"curl -sw '\n' 127.0.0.1:8000"
LAST_LINE = ("tail -n 1 log", r"\}\n")
# What is typed, and what tells that it is done.
STEPS = [
    ("cookiecutter --no-input cookiecutter-chassis project_name='Order Service'", r"make check\s"),
    ("cd order-service", ""),
    ("make run >log 2>&1 &", r"\[1\]"),
    ("grep -m 1 ready <(tail -F log)", r"seconds"),
    (f'{CURL}/orders --json \'{{"customer": "Ada", "lines": [{{"sku": "tea", "quantity": 2}}]}}\'', r"created"),
    LAST_LINE,
    (f"{CURL}/orders/7", r"\}\n"),
    LAST_LINE,
    ("curl -s 127.0.0.1:8000/metrics | grep duration_seconds_count", r"422"),
    ("kill -INT %1; wait; tail -n 2 log", r"stopped"),
]


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        clone = ["git", "clone", "--quiet", str(HERE.parent), f"{folder}/cookiecutter-chassis"]
        subprocess.run(clone, check=True)
        said = record(folder)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(said))
    drawn = console.export_svg(title="from the template to a service")
    # Without rich's typeface, which would come from elsewhere.
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL).replace("Fira Code", "ui-monospace")
    (HERE / "terminal.svg").write_text(re.sub(r"[ \t]+$", "", drawn, flags=re.MULTILINE))


def record(folder: str) -> str:
    """What a terminal in `folder` shows while the steps are done."""
    environment = {
        **{name: value for name, value in os.environ.items() if not re.match("VIRTUAL_ENV|MAKE|MFLAGS", name)},
        "PS1": PROMPT,
        "TERM": "xterm-256color",
        "COLUMNS": str(COLUMNS),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "INPUTRC": os.devnull,
    }
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(folder)
        os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], environment)
    os.set_blocking(terminal, False)
    said = until(terminal, "", "")
    for typed, done in STEPS:
        os.write(terminal, f"{typed}\n".encode())
        said += until(terminal, typed, done)
    os.write(terminal, b"exit\n")
    os.waitpid(child, 0)
    return said.rstrip().removesuffix(PROMPT.rstrip()).rstrip()


def until(terminal: int, typed: str, done: str) -> str:
    """What is shown from now until `done` is, and the prompt after it, and then nothing more for a moment."""
    said = ""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        ready, _, _ = select.select([terminal], [], [], 0.5)
        if ready:
            said += os.read(terminal, 65_536).decode(errors="replace").replace("\r\n", "\n")
        elif re.search(done + r".*\$ $", said.replace(typed, "", 1), re.DOTALL):
            return said
        if time.monotonic() > deadline:
            sys.exit(f"{typed!r} did not come to {done!r}; it said:\n{said}")


if __name__ == "__main__":
    main()
