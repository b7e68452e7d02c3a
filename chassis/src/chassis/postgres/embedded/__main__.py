"""The command line: `python -m chassis.postgres.embedded order_service -- python -m order_service`.

It starts the server, applies the migrations, runs the command with `APP_DATABASE_URL`, and stops the server. If
`APP_DATABASE_URL` is set, it only runs the command.
"""

import os
import shlex
import sys
from collections.abc import Sequence

from ...launcher import Launcher
from .errors import EmbeddedServerError
from .folders import FOLDER, kept_server
from .settings import is_url_given, variables_of

USAGE = "usage: python -m chassis.postgres.embedded <package> -- <command>"


def launch(package: str, command: Sequence[str]) -> int:
    """Run a command with a database that has the migrations of `package`. Returns the exit status of the command."""
    launcher = Launcher()
    with launcher.signals(), kept_server() as server:
        environment = os.environ | variables_of(server.url, server.password_file)
        psql = shlex.join((str(server.programs / "psql"), server.url))
        sys.stderr.write(f"PostgreSQL {server.version} runs, with its data in {FOLDER}; to query it: {psql}\n")
        upgrade = [sys.executable, "-m", "chassis.migrations", package, "upgrade"]
        return launcher.run(upgrade, environment) or launcher.run(command, environment)
    return launcher.status


def main(arguments: list[str]) -> int:
    """Run the command of the arguments. Returns its exit status, or 1 if there is no server."""
    if len(arguments) < 3 or arguments[1] != "--":
        sys.stderr.write(f"error: expected a package and a command; {USAGE}\n")
        return 2
    package, _, *command = arguments
    try:
        if is_url_given():
            os.execvp(command[0], command)  # noqa: S606 - the command of the Makefile
        return launch(package, command)
    except (EmbeddedServerError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
