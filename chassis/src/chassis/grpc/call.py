"""One call: the facts that its telemetry, its limits and its dependencies share."""

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from time import perf_counter
from typing import Any
from urllib.parse import unquote

from grpc import StatusCode
from starlette.requests import Request
from starlette.types import Scope

from ..context import RequestContext
from ..http.addresses import plain_host
from ..request_info import RequestInfo
from ..work_scope import scope_of_work

Metadatum = tuple[str, str | bytes]
# The headers of HTTP that mean the same for a call. gRPC has its own header for the deadline.
NOTED_METADATA = frozenset({"baggage", "traceparent", "tracestate", "user-agent", "x-request-id"})


class Call:
    """A call that is in progress, and what is known of its end."""

    def __init__(
        self, path: str, method: str, headers: Sequence[tuple[bytes, bytes]], info: RequestInfo, context: RequestContext
    ) -> None:
        """`path` is the one that the client has sent. `method` is its name in telemetry; unknown methods share one."""
        self.path: str = path
        self.method: str = method
        self.info: RequestInfo = info
        self.context: RequestContext = context
        self.began: float = perf_counter()
        self.peer: str = ""
        self.code: StatusCode | None = None
        """The status of the call; None before its end, and if the client has left before the method was called."""
        self.deadline: str = ""
        """The deadline that has passed: that of the `caller`, our `own`, or empty."""
        self.is_stopped: bool = False
        """Whether the call is cancelled at the end of a graceful shutdown."""
        self.is_probe: bool = False
        self.is_stream: bool = False
        """Whether the client or the service may send several messages."""
        self.request_bytes: int = 0
        self.response_bytes: int = 0
        self.request_messages: int = 0
        self.response_messages: int = 0
        self.bound_facts: dict[str, Any] = {}
        """The facts that structlog has bound."""
        self.task: asyncio.Task[object] | None = asyncio.current_task()
        self._headers = headers
        self._scope: Scope = {}

    @property
    def client(self) -> str | None:
        """The address of the client; None for a Unix socket and before the method is called."""
        family, _, address = self.peer.partition(":")
        if family not in ("ipv4", "ipv6"):
            return None
        return plain_host(unquote(address).rpartition(":")[0].strip("[]"))

    def scope(self, app: object) -> Scope:
        """A scope of ASGI that stands for the call: a POST with its metadata as headers."""
        if not self._scope:
            self._scope = scope_of_work(
                "grpc", self.path, self.info, app, headers=self._headers, client=self.client, http_version="2"
            )
        return self._scope

    def request(self, app: object) -> Request:
        """A request that stands for the call, for providers that need one."""
        return Request(self.scope(app))

    def count_request(self, size: int) -> None:
        """Note a message of the client."""
        self.request_messages += 1
        self.request_bytes += size

    def count_response(self, size: int) -> None:
        """Note a message for the client."""
        self.response_messages += 1
        self.response_bytes += size


current_call: ContextVar[Call] = ContextVar("current_call")


def headers_of(metadata: Sequence[Metadatum]) -> list[tuple[bytes, bytes]]:
    """Metadata as headers: names in lower case, as gRPC requires them."""
    return [
        (name.encode("latin-1"), value if isinstance(value, bytes) else value.encode("latin-1", "replace"))
        for name, value in metadata
    ]


def info_of(headers: Sequence[tuple[bytes, bytes]]) -> RequestInfo:
    """The facts of the metadata that the chassis reads."""
    info = RequestInfo()
    for name, value in headers:
        if name.decode("latin-1") in NOTED_METADATA:
            info.note(name, value)
    return info
