"""What is heavy and not used is not imported."""

import re
from pathlib import Path

from bakery import run

HEAVY = re.compile(
    r"\| +(opentelemetry\.exporter|grpc|requests|google\.protobuf|opentelemetry\.proto|rich|fastapi|urllib3)\b"
)


def test_application_imports_no_exporter(installed: Path, python: Path) -> None:
    imported = run(python, "-X", "importtime", "-c", "import order_service.app", cwd=installed, PYTHONPATH="src")

    assert imported.returncode == 0, imported.stdout
    assert "starlette" in imported.stdout
    assert HEAVY.findall(imported.stdout) == []


def test_nothing_happens_at_import(installed: Path, python: Path) -> None:
    script = (
        "import sys\n"
        "def refuse(event, arguments):\n"
        "    if event in ('socket.bind', 'socket.connect', 'subprocess.Popen', 'os.fork'):\n"
        "        raise RuntimeError(event)\n"
        "sys.addaudithook(refuse)\n"
        "import threading, order_service.__main__\n"
        "assert threading.active_count() == 1\n"
    )

    # A wrong setting would be noticed, if it were read.
    imported = run(python, "-c", script, cwd=installed, PYTHONPATH="src", APP_PORT="none", OTEL_TRACES_EXPORTER="none")

    assert (imported.returncode, imported.stdout) == (0, "")
