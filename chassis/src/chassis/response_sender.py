"""The response on its way from the application to the server."""

from collections.abc import Awaitable, Iterable, Mapping

from starlette.types import Message, Send


class ResponseSender:
    """An ASGI `send` that knows what has been sent, and gives headers along.

    Middlewares that stand next to each other share one (`ResponseSender.of`), so that a message passes
    through one function instead of one for each of them. One that wraps `send` in its own way ends
    the sharing: what is inside of it sees what it was sent, what is outside what it sends.
    """

    __slots__ = ("_send", "body_bytes", "default_headers", "headers", "status")

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        """Of the response, once it has started; of a WebSocket 101, or 403 when its handshake is refused."""
        self.body_bytes = 0
        self.headers: list[tuple[bytes, bytes]] = []
        """Added to the response."""
        self.default_headers: Mapping[bytes, tuple[bytes, bytes]] = {}
        """By name, added to a response that does not have its own."""

    @classmethod
    def of(cls, send: Send) -> "ResponseSender":
        """`send` itself, when the middleware outside has made it one already."""
        return send if isinstance(send, cls) else cls(send)

    # A plain function that returns the inner awaitable: a coroutine of its own would cost as much as
    # all else it does.
    def __call__(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "http.response.body":
            self.body_bytes += len(message.get("body", b""))
            return self._send(message)
        if kind in ("http.response.start", "websocket.http.response.start"):
            message["headers"] = self._with_ours(message.get("headers", ()))
            sent = self._send(message)  # first, because our server refuses a broken head right here
            self.status = message["status"]
            return sent
        if kind == "websocket.accept":
            message["headers"] = self._with_ours(message.get("headers", ()))
            self.status = 101
        elif kind == "websocket.close" and not self.status:
            self.status = 403  # the server's response when the handshake is refused
        return self._send(message)

    def _with_ours(self, headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        headers = [*headers, *self.headers]
        defaults = self.default_headers
        present = [name for name, _ in headers]
        if defaults.keys().isdisjoint(present):  # as most responses are
            headers += defaults.values()
        else:
            headers += [header for name, header in defaults.items() if name not in present]
        return headers


async def send_response(send: Send, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
    """Send a whole response."""
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
