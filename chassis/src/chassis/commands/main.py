"""The command line: finds the command, reads the settings, and runs it."""

import gc
import sys
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from math import inf
from textwrap import fill
from typing import Any

import structlog

from ..app import App
from ..command import BUILT_IN
from ..settings import ChassisSettings, load_settings
from ..telemetry.logs import log_output
from .check import check
from .errors import UsageError
from .execution import Execution
from .help import BUILT_IN_HELP, overview
from .listings import print_openapi, print_routes, print_settings
from .parser import Parser, program, suggestion, with_hint
from .process import run_process

STANDARD_ERROR = 2
USAGE_STATUS = 2
INTERRUPTED = 130
HELP = ("-h", "--help", "help")
CHECK_SECONDS = 60.0  # longer than the database and NATS may take to accept a first connection
WIDTH = 79

CreateApp = Callable[[Any], App]


def main(create_app: CreateApp, settings_class: type[ChassisSettings], words: Sequence[str]) -> int:
    """Run the command that `words` name, except `serve`. Returns the exit status of the process.

    Results are printed on standard output. Log lines go to standard error, so that the output can be piped.
    """
    try:
        return _run(partial(_make_app, create_app, settings_class), settings_class, words)
    except UsageError as error:
        sys.stderr.write(f"error: {error}\n")
        return USAGE_STATUS
    except KeyboardInterrupt:
        return INTERRUPTED


def _make_app(create_app: CreateApp, settings_class: type[ChassisSettings]) -> App:
    log_output.set(STANDARD_ERROR)
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # until the logs are installed
    app = create_app(load_settings(settings_class))
    app.telemetry.install()
    # The objects of the start live as long as the process.
    gc.freeze()
    gc.enable()
    return app


def _run(make_app: Callable[[], App], settings_class: type[ChassisSettings], words: Sequence[str]) -> int:
    name, *rest = words
    if name in HELP:
        return overview(make_app)
    if name.startswith("-"):
        raise UsageError(f"there is no option {name}; for help: {program()} --help")
    if name not in BUILT_IN:
        return _run_own(make_app(), name, rest)
    options = _options(name, rest)
    match name:
        case "settings":
            return print_settings(load_settings(settings_class), as_json=options.json, only_changed=options.changed)
        case "openapi":
            return print_openapi(make_app())
        case "routes":
            return print_routes(make_app(), as_json=options.json)
    app, seconds = make_app(), float(options.timeout)
    return run_process(app, name, partial(check, app, seconds=seconds, as_json=options.json), seconds=seconds)


def _options(name: str, words: Sequence[str]) -> Namespace:
    """The options of a command of the chassis."""
    parser = Parser(name, fill(BUILT_IN_HELP[name], WIDTH))
    if name == "serve" and words and words[0] not in HELP:
        parser.error("serve takes no arguments, because settings configure it")
    if name in ("settings", "check", "routes"):
        parser.add_argument("--json", action="store_true", help="Print JSON.")
    if name == "settings":
        parser.add_argument("--changed", action="store_true", help="Leave out settings that have their default.")
    if name == "check":
        text = f"How long all of it may take. Default: {CHECK_SECONDS:g}."
        parser.add_argument("--timeout", type=float, default=CHECK_SECONDS, metavar="SECONDS", help=text)
    options = parser.parse(words)
    if name == "check" and not 0 < options.timeout < inf:
        parser.error(f"--timeout={options.timeout:g}: not a number of seconds above 0")
    return options


def _run_own(app: App, name: str, words: Sequence[str]) -> int:
    command = app.commands.get(name)
    if command is None:
        hint = suggestion(name, [*BUILT_IN, *app.commands])
        raise UsageError(with_hint(f"there is no command {name!r}{hint}", f"for the list: {program()} --help"))
    execution = Execution(app, command, words)

    async def work() -> int:
        await app.open(background=False)
        return await execution.run()

    return run_process(app, name, work)
