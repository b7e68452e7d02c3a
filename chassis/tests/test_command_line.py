"""The command line: help, wrong words, and what it prints about a service."""

import gc
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import structlog

from chassis import Telemetry
from chassis.commands.main import main
from chassis.commands.output import table_text
from chassis.commands.parser import program
from chassis.telemetry.logs import log_output

from .support.commands import Settings, create_app

Run = Callable[..., int]
Captured = pytest.CaptureFixture[str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Run]:
    """Runs the command line, which may exit. Its changes of the process are undone."""
    monkeypatch.chdir(tmp_path)
    config, root, installed = structlog.get_config(), logging.getLogger(), Telemetry.installed
    handlers, level, hooks = root.handlers, root.level, (sys.excepthook, threading.excepthook)

    def run(*words: str) -> int:
        try:
            return main(create_app, Settings, words)
        except SystemExit as error:
            return int(error.code or 0)

    yield run
    structlog.configure(**config)
    root.handlers, Telemetry.installed = handlers, installed
    root.setLevel(level)
    logging.captureWarnings(False)
    sys.excepthook, threading.excepthook = hooks
    log_output.set(1)
    gc.unfreeze()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gret"], "there is no command 'gret'; did you mean greet? For the list: {program} --help"),
        (["xyz"], "there is no command 'xyz'; for the list: {program} --help"),
        (["--port"], "there is no option --port; for help: {program} --help"),
        (["greet", "Annabel"], "name='Annabel': String should have at most 5 characters"),
        (
            ["serve", "now"],
            "serve takes no arguments, because settings configure it; for help: {program} serve --help",
        ),
        (["check", "--timeout=0"], "--timeout=0: not a number of seconds above 0; for help: {program} check --help"),
        (
            ["check", "--timeout=nan"],
            "--timeout=nan: not a number of seconds above 0; for help: {program} check --help",
        ),
    ],
)
def test_wrong_command_or_argument_is_one_line_and_status_2(
    words: list[str], message: str, run: Run, capsys: Captured
) -> None:
    assert run(*words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == f"error: {message.format(program=program())}"


def test_wrong_setting_is_status_2(run: Run, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORT", "x")
    assert run("greet", "Ann") == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: APP_PORT='x': ")


@pytest.mark.parametrize("word", ["--help", "-h", "help"])
def test_help_lists_all_commands(word: str, run: Run, capsys: Captured) -> None:
    assert run(word) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"usage: {program()} [command] [arguments]\n")
    assert "\n  check     Check that the service could start here\n" in out
    assert "\ncommands of test-service:\n  greet     Greet somebody\n" in out


def test_help_needs_no_valid_settings(run: Run, capsys: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_PORT", "x")
    assert run("--help") == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "not listed, because a setting is wrong:\n  APP_PORT='x': " in captured.out


def test_help_of_a_command_has_its_documentation_arguments_and_defaults(run: Run, capsys: Captured) -> None:
    assert run("greet", "--help") == 0
    out = capsys.readouterr().out
    assert "Greet somebody.\n\nAs often as you like.\n" in out
    assert "Who is greeted.\n" in out
    assert "How often; 100 % of them. Default: 1.\n" in out
    assert "--mood {glad,sad}" in out
    assert "--loud, --no-loud" in out


@pytest.mark.parametrize("command", ["serve", "settings", "check", "openapi", "routes"])
def test_help_of_the_commands_of_the_chassis(command: str, run: Run, capsys: Captured) -> None:
    assert run(command, "--help") == 0
    assert capsys.readouterr().out.startswith(f"usage: {program()} {command} [-h]")


def test_program_is_named_as_it_was_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "__main__", ModuleType("__main__"))  # as of a script, without a spec
    monkeypatch.setattr(sys, "argv", ["/app/.venv/bin/order-service", "check"])
    assert program() == "order-service"


def test_settings_are_printed_with_sources_and_without_secrets(
    run: Run, capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_API_KEY", "hunter2")
    monkeypatch.setenv("APP_GREETING", "Good day")
    assert run("settings", "--changed") == 0
    assert capsys.readouterr().out == (
        "VARIABLE      VALUE     SOURCE\nAPP_GREETING  Good day  environment\nAPP_API_KEY   [secret]  environment\n"
    )


def test_routes_are_printed_with_their_limits(run: Run, capsys: Captured) -> None:
    assert run("routes") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["METHOD", "PATH", "REQUIRES", "LIMITS", "HANDLER"]
    assert lines[1].split("  ", 1)[0] == "GET"
    assert "/greetings/{name}: 10 in 60 s  " in lines[1]


def test_table_has_one_line_for_each_row() -> None:
    assert table_text([("A", "B"), ("a\nlong", "b"), ("c", "")]) == "A       B\na long  b\nc\n"
