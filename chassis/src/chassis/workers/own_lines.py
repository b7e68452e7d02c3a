"""The log lines of the supervisor, beside those of the workers."""

from starlette.types import Message, Receive, Scope

from ..api.routing import Route, Router
from ..operations.log_lines import LogLines
from ..telemetry.log_writer import LineWriter
from .requests import WorkerResponse

PATH = "/logs"


class OwnLines:
    """`/logs` of the supervisor itself, with the same parameters as that of a worker."""

    def __init__(self, writer: LineWriter) -> None:
        self._router = Router([Route(PATH, LogLines(writer), in_openapi=False)])

    def concerns(self, scope: Scope) -> bool:
        """Whether a request is for log lines."""
        return scope["path"] == PATH and scope["method"] in ("GET", "HEAD")

    async def respond(self, scope: Scope, target: bytes, receive: Receive) -> WorkerResponse:
        """The response to a request with this target. Raises `Problem` if it is invalid."""
        response = WorkerResponse()

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                response.status, response.headers = message["status"], [*message["headers"]]
            else:
                response.body += message.get("body", b"")

        query = target.partition(b"?")[2]
        await self._router.dispatch({**scope, "method": "GET", "query_string": query}, receive, send)
        return response
