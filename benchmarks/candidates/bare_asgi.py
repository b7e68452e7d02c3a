"""The yardstick: an ASGI function that answers the same bytes whatever is asked."""

from typing import Any

from .serving import serve

BODY = b'{"id":1,"name":"item 1"}'
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())]


async def app(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": BODY})


if __name__ == "__main__":
    serve(app, lifespan="off")
