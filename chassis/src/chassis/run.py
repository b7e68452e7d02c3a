"""Runs a service as a process: signals, garbage collector, settings, application, server."""

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn, get_type_hints

if TYPE_CHECKING:
    from collections.abc import Callable

    from .app import App
    from .settings import ChassisSettings


def run(create_app: str) -> NoReturn:
    """Serve until a signal stops the service, and exit with its status.

    `create_app` names a function as `"package.module:function"`. It takes the settings, whose class is read from its
    annotation, and returns an `App`:

        def create_app(settings: Settings) -> App: ...

    It is imported here, after a handler for SIGTERM is set. Status 0 after SIGTERM or SIGINT, 1 when the service
    failed to start or to stop, 2 for a wrong setting. When the shutdown hangs, a `Watchdog` ends the process.
    """
    # PID 1 ignores SIGTERM until a handler is set. Without this line a pod that is stopped during its imports waits
    # for SIGKILL.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # The modules and objects of the start stay for the life of the process. Collecting garbage among them would take
    # a tenth of the start now, and milliseconds during requests later.
    gc.disable()

    from .server import Server
    from .settings import load_settings
    from .watchdog import Watchdog

    function = _load(create_app)
    app = function(load_settings(_settings_class(function, create_app)))
    server = Server(app)
    watchdog = Watchdog(app.telemetry)
    gc.freeze()
    gc.enable()
    sys.exit(server.run(watchdog))


def _load(reference: str) -> "Callable[[ChassisSettings], App]":
    from importlib import import_module

    module, separator, name = reference.partition(":")
    if not separator or not name:
        raise ValueError(f'run({reference!r}): name the function as "package.module:function"')
    function: Callable[[ChassisSettings], App] | None = getattr(import_module(module), name, None)
    if function is None:
        raise ValueError(f"run({reference!r}): module {module!r} has no {name!r}")
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
