"""`python -m` this package: settings, application, server."""

import gc
import os
import signal
import sys


def main() -> int:
    """Serve until a signal comes; returns the exit status."""
    # Before the imports, which take their time: what is a container's first process and has no handler yet doesn't
    # hear of the signal at all, and would be killed when the platform's patience is at its end.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    # What is loaded now stays. Looking for garbage among it would take a tenth of the start, and milliseconds
    # in the middle of requests later.
    gc.disable()

    from .app import create_app
    from .chassis import Limits, Server, load_settings
    from .settings import Settings

    settings = load_settings(Settings)
    server = Server(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        admin_port=settings.admin_port,
        drain_seconds=settings.drain_seconds,
        shutdown_seconds=settings.shutdown_seconds,
        keep_alive_seconds=settings.keep_alive_seconds,
        limits=Limits(
            max_connections=settings.max_connections,
            max_target_bytes=settings.max_target_bytes,
            max_head_bytes=settings.max_head_bytes,
            head_seconds=settings.head_seconds,
            body_seconds=settings.body_seconds,
            min_bytes_per_second=settings.min_bytes_per_second,
        ),
        trusted_proxies=settings.trusted_proxies,
    )
    gc.freeze()
    gc.enable()
    return server.run()


if __name__ == "__main__":
    sys.exit(main())
