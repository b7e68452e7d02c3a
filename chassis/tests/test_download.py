"""Files: whole, in parts, and not at all if the client has them; their names; slow clients."""

import asyncio
import email
import os
import re
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import ClientDisconnect
from starlette.types import Message

from chassis import Download, Handler, Route
from chassis.download import content_disposition, ranges_of

from .support.service import serve, until

CONTENT = bytes(range(100))


def of(path: Path, **options: Any) -> Route:
    """A route that serves this file."""

    class File(Handler):
        async def get(self) -> Download:
            """Download the file."""
            return Download(path, **options)

    return Route("/", File())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "report.pdf"
    path.write_bytes(CONTENT)
    os.utime(path, (1_700_000_000.5, 1_700_000_000.5))
    return path


# Whole files.


async def test_file_has_the_headers_that_caches_need(path: Path) -> None:
    async with serve(of(path, filename="report.pdf", headers={"Cache-Control": "max-age=60"})) as service:
        response = await service.client.get("/")
        assert (response.status_code, response.content) == (200, CONTENT)
        assert response.headers["content-type"] == "application/pdf"
        assert response.headers["content-length"] == "100"
        assert response.headers["content-disposition"] == 'attachment; filename="report.pdf"'
        assert response.headers.get_list("cache-control") == ["max-age=60"]
        assert response.headers["accept-ranges"] == "bytes"
        assert response.headers["last-modified"] == format_datetime(datetime.fromtimestamp(1.7e9, UTC), usegmt=True)
        content = service.app.openapi["paths"]["/"]["get"]["responses"]["200"]["content"]
        assert list(content) == ["application/octet-stream"]
    async with serve(of(path)) as service:
        response = await service.client.get("/")
        assert "cache-control" not in response.headers
        assert "content-disposition" not in response.headers


async def test_head_has_the_headers_and_no_content(path: Path) -> None:
    async with serve(of(path)) as service:
        whole = await service.client.get("/")
        for headers in ({}, {"range": "bytes=0-1"}):
            response = await service.client.head("/", headers=headers)
            assert (response.status_code, response.content) == (200, b"")
            for name in ("content-length", "etag", "last-modified", "accept-ranges"):
                assert response.headers[name] == whole.headers[name]


async def test_client_that_has_the_file_gets_304(path: Path) -> None:
    options: dict[str, Any] = {"filename": "report.pdf", "headers": {"cache-control": "max-age=60"}}
    async with serve(of(path, **options)) as service:
        whole = await service.client.get("/")
        validators = {"if-none-match": whole.headers["etag"]}, {"if-modified-since": whole.headers["last-modified"]}
        for headers in (*validators, {**validators[0], "range": "bytes=0-1"}):
            for method in ("GET", "HEAD"):
                response = await service.client.request(method, "/", headers=headers)
                assert (response.status_code, response.content) == (304, b"")
                assert response.headers["etag"] == whole.headers["etag"]
                assert response.headers["cache-control"] == "max-age=60"
                assert not [name for name in response.headers if name.startswith("content-") and "type-opt" not in name]
        response = await service.client.get("/", headers={"if-match": '"other"'})
        assert (response.status_code, response.headers["content-type"]) == (412, "application/problem+json")
        os.utime(path)
        for headers in validators:
            assert (await service.client.get("/", headers=headers)).status_code == 200


async def test_etag_of_the_owner_is_kept(path: Path) -> None:
    async with serve(of(path, headers={"etag": '"7"'})) as service:
        assert (await service.client.get("/")).headers.get_list("etag") == ['"7"']
        assert (await service.client.get("/", headers={"if-none-match": '"7"'})).status_code == 304


async def test_missing_file_is_404(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path, tmp_path / "none" / "none"):
        async with serve(of(path, filename="report.pdf", headers={"cache-control": "max-age=60"})) as service:
            response = await service.client.get("/")
            assert (response.status_code, response.json()["detail"]) == (404, "The file does not exist.")
            assert "content-disposition" not in response.headers
            assert response.headers["cache-control"] == "no-store"


# Parts.


@pytest.mark.parametrize(
    ("ranges", "start", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=90-", 90, 100),
        ("bytes=-5", 95, 100),
        ("bytes=-500", 0, 100),
        ("bytes=98-1000", 98, 100),
        ("bytes=0-9,5-14", 0, 15),
        ("bytes=0-9,100-", 0, 10),
        ("Bytes=0-0", 0, 1),
    ],
)
async def test_part_is_206(path: Path, ranges: str, start: int, end: int) -> None:
    async with serve(of(path)) as service:
        response = await service.client.get("/", headers={"range": ranges})
        assert (response.status_code, response.content) == (206, CONTENT[start:end])
        assert response.headers["content-range"] == f"bytes {start}-{end - 1}/100"
        assert "etag" in response.headers


async def test_several_parts_are_one_multipart_response(path: Path) -> None:
    async with serve(of(path)) as service:
        response = await service.client.get("/", headers={"range": "bytes=0-4, 50-54 ,-1"})
        assert response.status_code == 206
        head = f"content-type: {response.headers['content-type']}\r\n\r\n".encode()
        parts = email.message_from_bytes(head + response.content).get_payload()
        assert isinstance(parts, list)
        found = [(part["content-range"], part["content-type"]) for part in parts]  # type: ignore[index]
        assert found == [(f"bytes {span}/100", "application/pdf") for span in ("0-4", "50-54", "99-99")]
        assert len(response.content) == int(response.headers["content-length"])


@pytest.mark.parametrize("ranges", ["bytes=100-", "bytes=-0", "bytes=100-200,300-"])
async def test_range_outside_the_file_is_416(path: Path, ranges: str) -> None:
    async with serve(of(path)) as service:
        response = await service.client.get("/", headers={"range": ranges})
        assert (response.status_code, response.headers["content-range"]) == (416, "bytes */100")
        assert response.headers["content-type"] == "application/problem+json"
        # Another file than the client has a part of has no such range to be wrong about.
        changed = await service.client.get("/", headers={"range": ranges, "if-range": '"other"'})
        assert (changed.status_code, changed.content) == (200, CONTENT)


@pytest.mark.parametrize(
    "ranges", ["lines=0-1", "bytes=5-2", "bytes=a-b", "bytes", "bytes=", "bytes=0-1;2-3", "bytes=٣-٤"]
)
async def test_malformed_range_is_ignored(path: Path, ranges: str) -> None:
    async with serve(of(path)) as service:
        response = await service.client.get("/", headers=[(b"range", ranges.encode())])
        assert (response.status_code, response.content) == (200, CONTENT)


async def test_download_is_resumed_only_if_the_file_is_the_same(path: Path) -> None:
    async with serve(of(path)) as service:
        whole = await service.client.get("/")
        for validator in (whole.headers["etag"], whole.headers["last-modified"]):
            response = await service.client.get("/", headers={"range": "bytes=50-", "if-range": validator})
            assert (response.status_code, response.content) == (206, CONTENT[50:])
        for validator in ('"other"', f"W/{whole.headers['etag']}", "Thu, 01 Jan 1970 00:00:00 GMT"):
            response = await service.client.get("/", headers={"range": "bytes=50-", "if-range": validator})
            assert (response.status_code, response.content) == (200, CONTENT)
    async with serve(of(path, headers={"etag": 'W/"7"'})) as service:
        response = await service.client.get("/", headers={"range": "bytes=50-", "if-range": 'W/"7"'})
        assert (response.status_code, response.content) == (200, CONTENT)


places = st.none() | st.integers(0, 12)
spans = st.tuples(places, places).filter(lambda span: span != (None, None))


@given(st.lists(spans, min_size=1, max_size=4), st.integers(0, 10))
def test_ranges_are_the_bytes_that_they_say(asked: list[tuple[int | None, int | None]], size: int) -> None:
    def shown(value: int | None) -> str:
        return "" if value is None else str(value)

    content = bytes(range(size))
    field = "bytes=" + ",".join(f"{shown(first)}-{shown(last)}" for first, last in asked)
    found = ranges_of(field, size)
    if any(first is not None and last is not None and last < first for first, last in asked):
        assert found is None
        return
    expected = []
    for first, last in asked:
        if first is None:
            part = content[-last:] if last else b""
        else:
            part = content[first:] if last is None else content[first : last + 1]
        expected += [part] if part else []
    assert found is not None
    assert [content[first : last + 1] for first, last in found] == expected


@given(st.text(), st.integers(0, 10))
def test_any_range_is_understood_or_ignored(text: str, size: int) -> None:
    for first, last in ranges_of(f"bytes={text}", size) or []:
        assert 0 <= first <= last < size


# Names.

# As RFC 6266, section 4.1, and RFC 8187, section 3.2.1, allow them; without quoted pairs.
NAMES = re.compile(
    r"""attachment; filename="(?P<ascii>[ !#-\[\]-~]*)"(; filename\*=UTF-8''(?P<encoded>[A-Za-z0-9!#$&+.^_`|~%-]+))?"""
)


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_name_is_valid_for_old_and_new_clients(name: str) -> None:
    value = content_disposition(name)
    assert value.isascii()
    assert value.isprintable()
    names = NAMES.fullmatch(value)
    assert names is not None
    shown = names["ascii"] if names["encoded"] is None else unquote(names["encoded"])
    assert shown == name.replace("/", "_").replace("\\", "_")


def test_name_of_old_clients_is_close() -> None:
    expected = "inline; filename=\"resume 5_.pdf\"; filename*=UTF-8''r%C3%A9sum%C3%A9%205%25.pdf"
    assert content_disposition("résumé 5%.pdf", "inline") == expected


async def test_browser_may_show_the_file(path: Path) -> None:
    async with serve(of(path, filename="Zürich.txt", inline=True)) as service:
        response = await service.client.get("/")
        assert response.headers["content-disposition"].startswith('inline; filename="Zurich.txt"; filename*=')
        assert response.headers["content-type"] == "text/plain; charset=utf-8"


# While the client takes it.


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


async def test_large_file_that_is_deleted_meanwhile_reaches_a_slow_client_in_flat_memory(tmp_path: Path) -> None:
    path = tmp_path / "large"
    size = 200_000_000
    with path.open("wb") as file:
        file.truncate(size)
    async with serve(of(path)) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port, limit=65_536)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n")
        before = resident_bytes()
        await reader.readexactly(1_000_000)
        path.unlink()
        received, most = 1_000_000, 0
        while part := await reader.read(65_536):
            received += len(part)
            most = max(most, resident_bytes() - before)
        writer.close()
        assert received == size
        assert most < 30_000_000
        line = await service.access_line()
        assert (line["status"], line["response_bytes"]) == (200, size)


async def test_download_ends_when_the_client_disconnects(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    async with serve(of(path)) as service:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.server.port, limit=65_536)
        writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await reader.readexactly(100_000)
        writer.close()
        line = await service.access_line()
        assert line["response_bytes"] < 200_000_000
        await service.under_way(0)
        await until(lambda: not [name for name in os.listdir("/proc/self/fd") if _leads_to(name, path)])


async def test_file_is_closed_when_the_request_is_cancelled_while_it_ends(path: Path) -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.body":
            # The connection is closing, and is lost in the next turn of the event loop.
            asyncio.get_running_loop().call_soon(task.cancel)
            raise ClientDisconnect

    scope = {"type": "http", "method": "GET", "headers": [], "asgi": {"version": "3.0", "spec_version": "2.4"}}
    task = asyncio.create_task(Download(path)(scope, receive, send))
    with pytest.raises(asyncio.CancelledError):
        await task
    # A file that was left open is a warning, and that is an error here.


def _leads_to(name: str, path: Path) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{name}") == str(path)
    except FileNotFoundError:
        return False
