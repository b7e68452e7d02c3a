"""Records the terminal that the README shows: a shell runs the commands, and their output is drawn as an SVG.

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
TIMEOUT_SECONDS = 120
CURL = r"curl -sw '\n' 127.0.0.1:8000"
LAST_LINE = ("tail -n 1 log", r"\}\n")
# Each command, and the output that shows that it is done.
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
        output = record(folder)
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi(output))
    drawn = console.export_svg(title="from the template to a service")
    # Without rich's font, which the browser would load from another site.
    drawn = re.sub(r"@font-face \{.*?\}", "", drawn, flags=re.DOTALL).replace("Fira Code", "ui-monospace")
    (HERE / "terminal.svg").write_text(re.sub(r"[ \t]+$", "", drawn, flags=re.MULTILINE))


def record(folder: str) -> str:
    """Run the steps in `folder`; returns the output of the terminal."""
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
    output = until(terminal, "", "")
    for command, done in STEPS:
        os.write(terminal, f"{command}\n".encode())
        output += until(terminal, command, done)
    os.write(terminal, b"exit\n")
    os.waitpid(child, 0)
    return output.rstrip().removesuffix(PROMPT.rstrip()).rstrip()


def until(terminal: int, command: str, done: str) -> str:
    """The output until `done`, the next prompt and half a second of silence; exits after a timeout."""
    output = ""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while True:
        ready, _, _ = select.select([terminal], [], [], 0.5)
        if ready:
            output += os.read(terminal, 65_536).decode(errors="replace").replace("\r\n", "\n")
        elif re.search(done + r".*\$ $", output.replace(command, "", 1), re.DOTALL):
            return output
        if time.monotonic() > deadline:
            sys.exit(f"{command!r} did not print {done!r} within {TIMEOUT_SECONDS} s; its output:\n{output}")


if __name__ == "__main__":
    main()
