"""Downloads of files with caching, resumption and range requests."""

import asyncio
import os
import re
import stat
import unicodedata
from collections.abc import Coroutine, Mapping
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

import anyio
from starlette.background import BackgroundTask
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from .conditional_requests import precondition_failed, precondition_status
from .problem import Problem

# RFC 9110, section 14.1.2; an empty member of the list is allowed (section 5.6.1).
RANGES = re.compile(r"bytes=[ \t,]*(?:(?:[0-9]+-[0-9]*|-[0-9]+)[ \t]*(?:,[ \t,]*|$))+", re.IGNORECASE)
RANGE = re.compile(r"([0-9]*)-([0-9]*)")
MAX_RANGE_DIGITS = 18  # more digits are beyond the size of any file
ATTRIBUTE_CHARACTERS = "!#$&+-.^_`|~"  # and letters and digits (RFC 8187, section 3.2.1)


class Download(FileResponse):
    """A file as a response. Return it from a handler:

        async def get(self, report_id: UUID) -> Download:
            return Download(self._folder / f"{report_id}.pdf", filename="Report.pdf")

    It extends Starlette's `FileResponse`, which sends `ETag`, `Last-Modified` and `Accept-Ranges`, and reads the file
    in a thread, in chunks, as fast as the client receives them. This class adds the rest of RFC 9110: conditional
    requests (304, 412; section 13), and problem documents for a missing file (404) and unsatisfiable ranges (416).
    Malformed ranges, other units, and any range in a HEAD request are ignored (section 14.2).

    `headers` may have a `cache-control`; without one, clients cache the file and revalidate it each time. `filename`
    may have any characters: old clients, which do not support RFC 8187, get an ASCII name. With `inline`, browsers
    show the file.

    Build the path from values that you trust: a path from a client may point to any file. Replace files by renaming, so
    that a running download continues with the old content.
    """

    media_type = "application/octet-stream"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        filename: str | None = None,
        media_type: str | None = None,
        headers: Mapping[str, str] | None = None,
        inline: bool = False,
        background: BackgroundTask | None = None,
    ) -> None:
        given = {name.lower(): value for name, value in (headers or {}).items()}
        if filename is not None:
            disposition: Literal["inline", "attachment"] = "inline" if inline else "attachment"
            given = {"content-disposition": content_disposition(filename, disposition)} | given
        # `filename` also determines the media type.
        super().__init__(path, headers=given, media_type=media_type, filename=filename, background=background)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        result = await asyncio.to_thread(_stat, self.path)
        if result is None:
            raise Problem(404, "The file does not exist.")
        self.set_stat_headers(result)
        self.stat_result = result
        etag = self.headers["etag"]
        headers = Headers(scope=scope)
        modified = datetime.fromtimestamp(result.st_mtime, UTC)
        status = precondition_status(scope["method"], headers, etag=etag, last_modified=modified)
        if status == 412:
            raise precondition_failed({"etag": etag})
        if status == 304:
            await self._send_not_modified(send)
            if self.background is not None:
                await self.background()
            return
        await with_cleanup(super().__call__(self._with_ranges(scope, headers, result.st_size), receive, send))

    async def _send_not_modified(self, send: Send) -> None:
        """304 with the fields that caches need (RFC 9110, section 15.4.5), and no content."""
        headers = MutableHeaders(raw=[field for field in self.raw_headers if not field[0].startswith(b"content-")])
        await send({"type": "http.response.start", "status": 304, "headers": headers.raw})
        await send({"type": "http.response.body", "body": b""})

    def _with_ranges(self, scope: Scope, headers: Headers, size: int) -> Scope:
        """`scope` with the satisfiable ranges, or without a range. Raises a `Problem` of 416 if none is satisfiable."""
        values = headers.getlist("range")
        if not values:
            return scope
        fields = [field for field in scope["headers"] if field[0].lower() not in (b"range", b"if-range")]
        if scope["method"] == "GET" and len(values) == 1 and self._may_resume(headers):
            ranges = ranges_of(values[0], size)
            if ranges == []:
                unsatisfiable = {"content-range": f"bytes */{size}", "accept-ranges": "bytes"}
                detail = f"The requested range is outside the file, which has {size} bytes."
                raise Problem(416, detail, headers=unsatisfiable)
            if ranges is not None and len(ranges) <= self.max_ranges:
                satisfiable = ",".join(f"{start}-{end}" for start, end in ranges)
                fields.append((b"range", b"bytes=" + satisfiable.encode()))
        return {**scope, "headers": fields}

    def _may_resume(self, headers: Headers) -> bool:
        """Whether the parts that the client has are of this version of the file (RFC 9110, section 13.1.5)."""
        if "if-range" not in headers:
            return True
        validator = headers["if-range"]
        return validator in (self.headers["etag"], self.headers["last-modified"]) and not validator.startswith("W/")


async def with_cleanup(work: Coroutine[Any, Any, None]) -> None:
    """Await `work`, and end it with an anyio cancel scope when the current task is cancelled.

    anyio's threads and shields ignore `Task.cancel`, so a file would stay open without this.
    """
    cancel_scope = anyio.CancelScope()

    async def run() -> None:
        with cancel_scope:
            await work

    task = asyncio.create_task(run())
    try:
        await asyncio.wait({task})
    except asyncio.CancelledError:
        cancel_scope.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # usually a disconnect of the client, which is also the reason of the cancellation
        raise
    task.result()


def ranges_of(field: str, size: int) -> list[tuple[int, int]] | None:
    """The first and the last byte of each satisfiable range of `size` bytes; None if the field is to be ignored.

    Unsatisfiable ranges are left out (RFC 9110, section 14.1.2).
    """
    if not RANGES.fullmatch(field):
        return None
    ranges = []
    for first, last in RANGE.findall(field):
        start, end = int(first[:MAX_RANGE_DIGITS] or 0), int(last[:MAX_RANGE_DIGITS] or size)
        if first and last and end < start:
            return None
        if not first:
            start, end = max(size - end, 0), size if end else 0
        if start < min(size, end + 1) and (first or end):
            ranges.append((start, min(end, size - 1)))
    return ranges


def content_disposition(filename: str, disposition: Literal["attachment", "inline"] = "attachment") -> str:
    """The value of `Content-Disposition` (RFC 6266): the name in any characters, and in ASCII for old clients."""
    name = re.sub(r"[/\\]", "_", filename)
    ascii_name = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    ascii_name = re.sub(r'[^ -~]|["%]', "_", ascii_name)
    if ascii_name == name:
        return f'{disposition}; filename="{name}"'
    encoded = quote(name, safe=ATTRIBUTE_CHARACTERS, errors="replace")
    return f"{disposition}; filename=\"{ascii_name}\"; filename*=UTF-8''{encoded}"


def _stat(path: str | os.PathLike[str]) -> os.stat_result | None:
    """The `stat` result of a regular file; None if there is no such file."""
    try:
        result = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return result if stat.S_ISREG(result.st_mode) else None
