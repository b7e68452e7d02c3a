"""A server whose bytes a test writes, one connection at a time."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from chassis.client.transport import Address

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@dataclass
class Connection:
    """A connection that a client has opened."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def request(self) -> bytes:
        """The next header section. Raises `IncompleteReadError` at the end of the connection."""
        return await self.reader.readuntil(b"\r\n\r\n")

    async def send(self, *parts: bytes) -> None:
        """Send bytes."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def ended(self) -> None:
        """Wait until the client has closed the connection."""
        with suppress(ConnectionError):
            while await self.reader.read(65_536):
                pass

    def reset(self) -> None:
        """Close with a TCP reset, as the kernel does for a process that is killed with unread bytes."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@dataclass
class ScriptedServer:
    """The requests that the server has seen."""

    address: Address
    connections: int = 0
    closed: int = 0


Script = Callable[[Connection], Awaitable[None]]


@asynccontextmanager
async def scripted(script: Script, tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedServer]:
    """Run `script` for each connection on a free port, and close the connection after it."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        server.connections += 1
        connection = Connection(reader, writer)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await script(connection)
        finally:
            server.closed += 1
            writer.close()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    server = ScriptedServer(Address(*listening.sockets[0].getsockname()))
    try:
        yield server
    finally:
        listening.close()


def responding(response: bytes = OK, heads: list[bytes] | None = None) -> Script:
    """A script that sends `response` for each request without a body, and keeps the connection."""

    async def script(connection: Connection) -> None:
        while True:
            head = await connection.request()
            if heads is not None:
                heads.append(head)
            await connection.send(response)

    return script


def once(*parts: bytes) -> Script:
    """A script that sends bytes after the first request, and closes the connection."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(*parts)

    return script
