"""`python -m` this package: settings, application, server."""

import os
import signal
import sys


def main() -> int:
    """Serve until a signal comes; returns the exit status."""
    # Before the imports, which take their time: what is a container's first process and has no handler yet doesn't
    # hear of the signal at all, and would be killed when the platform's patience is at its end.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))

    from .app import create_app
    from .chassis import Server, load_settings
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
        trusted_proxies=settings.trusted_proxies,
    )
    return server.run()


if __name__ == "__main__":
    sys.exit(main())
