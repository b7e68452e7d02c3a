"""Mixed load on a service for as long as is asked, and what is left of it afterwards; a program of its own.

    python tests/support/soak.py <project with its .venv> <seconds>

It sends ordinary requests, errors of all kinds, large bodies both ways, and WebSocket messages. Clients disconnect in
the middle of a request, of the work and of a response, and use a connection for one request or for many. It prints
JSON: memory over time, descriptors and tasks before and after, and for each request whether it has its access line. The
default service has one more module of handlers for it; the project itself is not changed.
"""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx
from prometheus_client.parser import text_string_to_metric_families
from websockets.asyncio.client import connect as connect_websocket

from bakery import add_handler, clean_environment

HANDLERS = '''"""What soaking wants beside the example."""

import asyncio
import hashlib
from collections.abc import AsyncIterator

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from chassis import Handler


class Soak(Handler):
    """GET fails, PUT takes its time, POST reads whatever comes, PATCH sends a lot, DELETE tells of tasks."""

    async def get(self) -> None:
        """Fail."""
        raise RuntimeError("as it was asked to")

    async def put(self) -> str:
        """Wait."""
        await asyncio.sleep(0.2)
        return "waited"

    async def post(self, request: Request) -> str:
        """Read."""
        digest = hashlib.sha256()
        async for chunk in request.stream():
            digest.update(chunk)
        return digest.hexdigest()

    async def patch(self, chunks: int) -> StreamingResponse:
        """Send."""

        async def send() -> AsyncIterator[bytes]:
            for _ in range(chunks):
                yield b"x" * 65_536

        return StreamingResponse(send())

    async def delete(self) -> int:
        """Count."""
        return len(asyncio.all_tasks())


async def echo(websocket: WebSocket) -> None:
    """Say the same again."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


ECHO = WebSocketRoute("/echo", echo)
'''
WORKERS = 12
CHUNK = b"x" * 65_536
PATIENCE_SECONDS = 20.0
REQUEST_ID = re.compile(rb'"request_id":"soak-(\d+)"')


class Log:
    """Reads the log as it comes, and counts access lines by the number in their request id."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.counts: Counter[int] = Counter()
        self.others = 0
        self.unexpected: Counter[str] = Counter()
        self.first: dict[str, object] = {}
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        for raw in self._stream:
            line = json.loads(raw)
            if line["event"] == "request":
                found = REQUEST_ID.search(raw)
                if found:
                    self.counts[int(found[1])] += 1
                else:
                    self.others += 1
            elif line["event"] == "listening":
                self.first = line
            elif line["event"] != "order confirmed" and "as it was asked to" not in line.get("exception", ""):
                self.unexpected[line["event"]] += line["level"] != "info"

    def join(self) -> None:
        """Read to the end."""
        self._thread.join(PATIENCE_SECONDS)


@dataclass(frozen=True)
class Answer:
    """A response."""

    status: int
    headers: dict[str, str]
    content: bytes


class Connection:
    """A client with one connection at a time. It takes a tenth of the CPU time of httpx."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, target: str, ids: str, body: bytes = b"", *, chunks: int = 0) -> Answer:
        """Send a request, whose body is sent `chunks` times if it has no length."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            reader, writer = self._streams or await asyncio.open_connection("127.0.0.1", self._port)
            self._streams = (reader, writer)
            framing = "transfer-encoding: chunked" if chunks else f"content-length: {len(body)}"
            writer.write(f"{method} {target} HTTP/1.1\r\nhost: x\r\n{ids}{framing}\r\n\r\n".encode())
            for _ in range(chunks):
                writer.write(b"%x\r\n%b\r\n" % (len(body), body))
                await writer.drain()
            writer.write(b"0\r\n\r\n" if chunks else body)
            answer = await self._receive(reader)
        if answer.headers.get("connection") == "close":
            await self.close()
        return answer

    async def _receive(self, reader: asyncio.StreamReader) -> Answer:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        headers = dict(line.lower().split(": ", 1) for line in lines if line)
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        if "transfer-encoding" in headers:
            while size := int(await reader.readline(), 16):
                content += (await reader.readexactly(size + 2))[:-2]
            await reader.readline()
        return Answer(int(first.split()[1]), headers, content)

    async def close(self) -> None:
        """Leave."""
        if self._streams is not None:
            self._streams[1].close()
            await self._streams[1].wait_closed()
            self._streams = None


class Soaking:
    """Clients of one service; each request has a number of its own."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._number = 0
        self.asked: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self._kinds: list[Callable[[Connection], Awaitable[None]]] = [
            *[self._read] * 6,
            *[self._create] * 6,
            self._wrong,
            self._missing,
            self._failing,
            self._waiting,
            self._upload,
            self._download,
            self._once,
            self._leave_while_sending,
            self._leave_while_waiting,
            self._leave_while_receiving,
            self._talk,
        ]

    @property
    def requests(self) -> int:
        """How many there were that must have an access line."""
        return self._number

    async def run(self, seconds: float, watch: Callable[[], None], *, requests: int = 0) -> None:
        """Ask for so long, and until there were so many requests; call `watch` ten times meanwhile."""
        began, first = time.monotonic(), self._number

        def progress() -> float:
            """The share that is done."""
            share = (time.monotonic() - began) / seconds
            return min(share, (self._number - first) / requests) if requests else share

        async def work() -> None:
            client = Connection(self._port)
            while progress() < 1:
                await random.choice(self._kinds)(client)  # noqa: S311 - no secret
            await client.close()

        async def look() -> None:
            for part in range(1, 11):
                while progress() < part / 10:
                    await asyncio.sleep(0.01)
                watch()

        async with asyncio.TaskGroup() as group:
            for _ in range(WORKERS):
                group.create_task(work())
            group.create_task(look())

    def _id(self, kind: str) -> str:
        self.asked[kind] += 1
        self._number += 1
        return f"soak-{self._number - 1}"

    def _ids(self, kind: str) -> str:
        return f"x-request-id: {self._id(kind)}\r\n"

    def _json(self, kind: str) -> str:
        return f"{self._ids(kind)}content-type: application/json\r\n"

    def _expect(self, answer: Answer, status: int) -> None:
        self.statuses[answer.status] += 1
        assert answer.status == status, answer.content

    async def _read(self, client: Connection) -> None:
        self._expect(await client.ask("GET", "/orders?limit=3", self._ids("read")), 200)

    async def _create(self, client: Connection) -> None:
        order = b'{"customer": "Ada", "lines": [{"sku": "tea", "quantity": 2}]}'
        created = await client.ask("POST", "/orders", self._json("create"), order)
        self._expect(created, 201)
        self._expect(await client.ask("DELETE", created.headers["location"], self._ids("delete")), 204)

    async def _wrong(self, client: Connection) -> None:
        self._expect(await client.ask("POST", "/orders", self._json("wrong"), b'{"customer": 1}'), 422)

    async def _missing(self, client: Connection) -> None:
        self._expect(await client.ask("GET", f"/nowhere/{self._number}", self._ids("missing")), 404)

    async def _failing(self, client: Connection) -> None:
        self._expect(await client.ask("GET", "/soak", self._ids("failing")), 500)

    async def _waiting(self, client: Connection) -> None:
        self._expect(await client.ask("PUT", "/soak", self._ids("waiting")), 200)

    async def _upload(self, client: Connection) -> None:
        self._expect(await client.ask("POST", "/soak", self._ids("upload"), CHUNK, chunks=16), 200)

    async def _download(self, client: Connection) -> None:
        answer = await client.ask("PATCH", "/soak?chunks=32", self._ids("download"))
        self._expect(answer, 200)
        assert len(answer.content) == 32 * len(CHUNK)

    async def _once(self, client: Connection) -> None:
        headers = f"{self._ids('once')}connection: close\r\n"
        self._expect(await client.ask("GET", "/orders?limit=1", headers), 200)

    async def _leave(self, kind: str, head: str, body: bytes = b"", read: int = 0, wait: float = 0.0) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        writer.write(f"{head} HTTP/1.1\r\nhost: x\r\n{self._ids(kind)}".encode() + body)
        await writer.drain()
        if read:
            await reader.readexactly(read)
        await asyncio.sleep(wait)
        writer.close()
        await asyncio.wait([asyncio.ensure_future(writer.wait_closed())])

    async def _leave_while_sending(self, _: Connection) -> None:
        await self._leave("leave while sending", "POST /soak", b"content-length: 100000\r\n\r\n" + CHUNK)

    async def _leave_while_waiting(self, _: Connection) -> None:
        await self._leave("leave while waiting", "PUT /soak", b"\r\n", wait=random.uniform(0, 0.1))  # noqa: S311

    async def _leave_while_receiving(self, _: Connection) -> None:
        await self._leave("leave while receiving", "PATCH /soak?chunks=100", b"\r\n", read=1000)

    async def _talk(self, _: Connection) -> None:
        headers = {"x-request-id": self._id("talk")}
        async with connect_websocket(
            f"ws://127.0.0.1:{self._port}/echo", additional_headers=headers, proxy=None
        ) as websocket:
            for number in range(5):
                await websocket.send(str(number))
                assert await websocket.recv() == str(number)


def prepare(project: Path, folder: Path) -> Path:
    """A copy of the project's sources with the handlers above."""
    copy = folder / "service"
    shutil.copytree(project / "src", copy / "src")
    routes = 'app.add_route("/soak", Soak())\napp.add_routes(ECHO)'
    add_handler(copy, "soak", HANDLERS, "from .soak import ECHO, Soak", routes)
    return copy


def soak(project: Path, seconds: float, *, requests: int = 0) -> dict[str, object]:
    """Soak the service of this project for so long, and with so many requests; returns what was found."""
    with tempfile.TemporaryDirectory() as folder:
        copy = prepare(project, Path(folder))
        variables = {"APP_HOST": "127.0.0.1", "APP_PORT": "0", "APP_DRAIN_SECONDS": "0", "PYTHONPATH": "src"}
        variables["APP_MAX_BODY_BYTES"] = str(32 * len(CHUNK))
        with subprocess.Popen(
            [project / ".venv/bin/python", "-m", "order_service"],
            cwd=copy,
            env=clean_environment(Path(folder), **variables),
            stdout=subprocess.PIPE,
        ) as process:
            try:
                assert process.stdout is not None
                return _soak(process, Log(process.stdout), seconds, requests)
            finally:
                process.kill()


def _soak(process: subprocess.Popen[bytes], log: Log, seconds: float, requests: int) -> dict[str, object]:
    _until(lambda: "port" in log.first)
    url = f"http://127.0.0.1:{log.first['port']}"
    soaking = Soaking(int(str(log.first["port"])))
    proc = Path(f"/proc/{process.pid}")
    ours = httpx.Client(base_url=url, timeout=PATIENCE_SECONDS, trust_env=False)

    def memory() -> float:
        found = re.search(r"VmRSS:\s+(\d+)", (proc / "status").read_text())
        return round(int(found[1]) / 1024, 1) if found else 0.0

    def descriptors() -> int:
        return len(os.listdir(proc / "fd"))

    def tasks() -> int:
        return int(ours.delete("/soak").json())

    before = {"tasks": tasks(), "descriptors": descriptors()}
    # So that everything has been used once.
    asyncio.run(soaking.run(min(5.0, seconds / 4), lambda: None, requests=requests // 4))
    sizes = [memory()]
    asyncio.run(soaking.run(seconds, lambda: sizes.append(memory()), requests=requests))
    _until(lambda: len(log.counts) == soaking.requests, optional=True)
    _until(lambda: descriptors() <= before["descriptors"] and tasks() <= before["tasks"], optional=True)
    after = {"tasks": tasks(), "descriptors": descriptors()}
    counted = sum(
        sample.value
        for family in text_string_to_metric_families(ours.get("/metrics").text)
        for sample in family.samples
        if sample.name == "http_server_request_duration_seconds_count" and sample.labels["http_route"] != "/metrics"
    )
    ours.close()
    process.send_signal(signal.SIGTERM)
    status = process.wait(PATIENCE_SECONDS)
    log.join()
    return {
        "seconds": seconds,
        "requests": soaking.requests,
        "kinds": dict(soaking.asked),
        "without_a_line": soaking.requests - len(log.counts),
        "with_more_than_one": sum(count > 1 for count in log.counts.values()),
        "lines": log.counts.total() + log.others,
        "counted": counted,
        "memory_mb": sizes,
        "before": before,
        "after": after,
        "unexpected_events": {event: count for event, count in log.unexpected.items() if count},
        "exit_status": status,
    }


def _until(condition: Callable[[], bool], *, optional: bool = False) -> None:
    give_up = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > give_up:
            assert optional, "the service doesn't get on"
            return
        time.sleep(0.05)


if __name__ == "__main__":
    print(json.dumps(soak(Path(sys.argv[1]).resolve(), float(sys.argv[2])), indent=2))
