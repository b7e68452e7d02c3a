"""Runs a service as a process: signals, garbage collector, settings, application, server or another command."""

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from .app import App
    from .settings import ChassisSettings

INTERRUPTED = 128 + 15  # by SIGTERM, as a shell reports it


def run(create_app: str, arguments: "Sequence[str] | None" = None) -> NoReturn:
    """Run the command that the arguments of the process name, by default `serve`, and exit with its status.

    `create_app` names a function as `"package.module:function"`. The function takes the settings and returns an `App`.
    The class of the settings is read from its annotation:

        def create_app(settings: Settings) -> App: ...

    The module is imported here, after a handler for SIGTERM is set. `arguments` replace those of the process: `[]` for
    a program that has arguments of its own.

    `serve` serves until a signal stops the service. With `APP_WORKERS`, several processes serve, and this one
    supervises them. The exit status is 0 after SIGTERM or SIGINT, 1 if the service fails to start or stop, and 2 for
    an invalid setting. If the shutdown hangs, a `Watchdog` ends the process. For the other commands, see
    docs/commands.md. Raises `ValueError` or `TypeError` if `create_app` names no such function.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["serve"]:
        words = []
    # PID 1 ignores SIGTERM until a handler is set. Without this line a pod that is stopped during its imports waits
    # for SIGKILL. A service that is stopped has done its work, and a command has not.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(INTERRUPTED if words else 0))
    # The objects of the start live as long as the process. They are frozen below, so that no collection visits them.
    gc.disable()

    from .server import Server
    from .settings import load_settings
    from .watchdog import Watchdog

    function = _load(create_app)
    settings_class = _settings_class(function, create_app)
    if words:
        from .commands.main import main  # not for `serve`, which starts faster without it

        sys.exit(main(function, settings_class, words))
    settings = load_settings(settings_class)
    if settings.workers != 1:
        from .workers.cores import worker_count

        count = worker_count(settings.workers)
        if count > 1:
            from .workers.start import run_workers

            sys.exit(run_workers(function, settings, count))
    app = function(settings)
    server = Server(app)
    watchdog = Watchdog(app.telemetry)
    gc.freeze()
    gc.enable()
    sys.exit(server.run(watchdog))


def _load(reference: str) -> "Callable[[ChassisSettings], App]":
    from importlib import import_module

    module, separator, name = reference.partition(":")
    if not separator or not name:
        raise ValueError(f'run({reference!r}): pass the name of a function, such as "package.module:function"')
    function: Callable[[ChassisSettings], App] | None = getattr(import_module(module), name, None)
    if function is None:
        raise ValueError(f"run({reference!r}): module {module!r} has no function {name!r}; check the name")
    return function


def _settings_class(function: "Callable[[ChassisSettings], App]", reference: str) -> "type[ChassisSettings]":
    from .settings import ChassisSettings

    hints = get_type_hints(function)
    hints.pop("return", None)
    settings = next(iter(hints.values()), None)
    if not (isinstance(settings, type) and issubclass(settings, ChassisSettings)):
        raise TypeError(
            f"run({reference!r}): annotate the first parameter with your settings class, "
            "such as: def create_app(settings: Settings) -> App"
        )
    return settings
