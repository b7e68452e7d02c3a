"""`--help`: the commands of the chassis and of the service."""

import contextlib
import inspect
import io
from collections.abc import Callable

from ..api.callables import innermost
from ..app import App
from .output import write
from .parser import program

BUILT_IN_HELP = {
    "serve": "Serve HTTP until a signal arrives. The default. Settings configure it, so it takes no arguments.",
    "settings": "Print the settings in effect, and where each value comes from. Secrets are masked.",
    "check": (
        "Check that the service could start here: read the settings, build the application, open its resources, and "
        "run each readiness check once. It opens no port, and starts no background tasks."
    ),
    "openapi": "Print the OpenAPI document of the API, as /openapi.json serves it. Opens nothing.",
    "routes": "Print the routes, and what each one needs and allows. Opens nothing.",
}
ENDING = """\
Every command has --help. All of them read the same settings as the service: the
environment, .env and secret files (docs/settings.md). Results are printed on
standard output. Log lines of commands other than serve go to standard error.

exit status: 0 success, 1 failure, 2 wrong arguments or settings,
             130 or 143 stopped by SIGINT or SIGTERM
"""


def overview(create_app: Callable[[], App]) -> int:
    """Print the list of commands. Those of the service need its settings. Returns the exit status."""
    name = program()
    built_in = {command: text.partition(". ")[0].partition(": ")[0] for command, text in BUILT_IN_HELP.items()}
    parts = [f"usage: {name} [command] [arguments]\n", f"commands:\n{_lines(built_in)}"]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            app = create_app()
    except SystemExit:
        reason = errors.getvalue().replace("error: ", "").strip().replace("\n", "\n  ")
        parts.append(f"The commands of this service are not listed, because a setting is wrong:\n  {reason}\n")
    else:
        own = {command.name: _first_line(command.function) for command in app.commands.values()}
        if own:
            parts.append(f"commands of {app.name}:\n{_lines(own)}")
    return write("\n".join([*parts, ENDING]))


def _lines(commands: dict[str, str]) -> str:
    width = max(map(len, commands))
    return "".join(
        f"  {command.ljust(width)}  {text.removesuffix('.')}".rstrip() + "\n" for command, text in commands.items()
    )


def _first_line(function: Callable[..., object]) -> str:
    return (inspect.getdoc(innermost(function)) or "").partition("\n")[0]
