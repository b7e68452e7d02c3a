"""Heavy modules are imported when they are used, and importing has no side effects."""

from pathlib import Path

from bakery import run

HEAVY = ("opentelemetry.exporter", "opentelemetry.proto", "google.protobuf", "grpc", "requests", "urllib3", "rich")


def test_application_imports_no_exporter(installed: Path, python: Path) -> None:
    # `-X importtime` would also list what was looked for and not found.
    script = "import sys, order_service.app; print(*sys.modules, sep='\\n')"
    imported = run(python, "-c", script, cwd=installed, PYTHONPATH="src")

    assert imported.returncode == 0, imported.stdout
    modules = imported.stdout.splitlines()
    assert "starlette" in modules
    assert [one for one in modules if one.startswith(HEAVY)] == []


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
