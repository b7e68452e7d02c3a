"""An issuer on a local port that misbehaves in the ways that a test names. It counts its requests."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from .forger import public, rsa_key

METADATA = "/.well-known/openid-configuration"
ENDLESS_CHUNK = b" " * 65_536


class OddIssuer:
    """The responses of the issuer, by path, and what it was asked."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[str] = []
        self.keys: dict[str, Any] = public(rsa_key())
        self.metadata: dict[str, Any] = {}
        self.raw: dict[str, bytes] = {}
        """Responses that are sent as they are, by path."""
        self.delay_seconds = 0.0
        self.is_endless = False
        self.is_down = False

    def fetches(self, path: str = "/keys") -> int:
        """How often a path was requested."""
        return self.requests.count(path)

    async def respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, and respond to it."""
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split()[1].decode()
            self.requests.append(path)
            await asyncio.sleep(self.delay_seconds)
            if self.is_down:
                return
            if self.is_endless:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\n{")
                while True:
                    writer.write(ENDLESS_CHUNK)
                    await writer.drain()
            writer.write(self.raw.get(path) or self.response(path))
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    def response(self, path: str) -> bytes:
        """The response of an issuer that works."""
        documents = {"/keys": self.keys, METADATA: {"issuer": self.url, "jwks_uri": f"{self.url}/keys"} | self.metadata}
        document = documents.get(path)
        return raw(json.dumps(document)) if document is not None else raw("{}", "404 Not Found")


def raw(body: str, status: str = "200 OK", *fields: str) -> bytes:
    """A response with a body."""
    head = "\r\n".join([f"HTTP/1.1 {status}", f"content-length: {len(body.encode())}", "connection: close", *fields])
    return f"{head}\r\n\r\n{body}".encode()


@asynccontextmanager
async def odd_issuer() -> AsyncIterator[OddIssuer]:
    """Run the issuer."""
    issuer = OddIssuer()
    server = await asyncio.start_server(issuer.respond, "127.0.0.1", 0)
    issuer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield issuer
    finally:
        server.close()
