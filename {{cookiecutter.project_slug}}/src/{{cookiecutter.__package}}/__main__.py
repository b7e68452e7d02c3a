"""`python -m` this package: settings, application, server."""

import sys

from .app import create_app
from .chassis import Server, load_settings
from .settings import Settings


def main() -> int:
    """Serve until a signal comes; returns the exit status."""
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
