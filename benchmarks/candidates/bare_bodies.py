"""The yardstick for bodies: reads all that comes, and answers `x` as often as the path says."""

from typing import Any

from .serving import serve


async def app(scope: Any, receive: Any, send: Any) -> None:
    if scope["method"] == "POST":
        received, more = 0, True
        while more:
            message = await receive()
            received += len(message["body"])
            more = message["more_body"]
        kind, body = b"application/json", b'{"bytes":%d}' % received
    else:
        kind, body = b"application/octet-stream", b"x" * int(scope["path"].rpartition("/")[2])
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


if __name__ == "__main__":
    serve(app, lifespan="off")
