"""`/profile/cpu`: where the event loop's thread spends its time."""

import asyncio
from typing import TYPE_CHECKING, Literal

from starlette.requests import Request
from starlette.responses import Response

from ..api.handler import Handler
from ..problem import Problem
from ..threads import in_thread
from .access import client_of
from .audit import Audit
from .profiling import Profiling, Seconds

if TYPE_CHECKING:
    from pyinstrument import Profiler

MIN_INTERVAL_SECONDS = 0.001
MAX_SAMPLES = 30_000
"""A sample takes about 400 bytes until the result is made."""
NOT_INSTALLED = (
    "CPU profiles need pyinstrument, which is not installed. Write asgi-chassis[profiling] in place of asgi-chassis in "
    "pyproject.toml, and build the image again."
)
MEDIA_TYPES = {
    "text": "text/plain; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "speedscope": "application/json",
}

Format = Literal["text", "html", "speedscope"]


class CpuProfile(Handler):
    """Samples the thread of the event loop with pyinstrument. Threads of `def` handlers are not sampled."""

    def __init__(self, profiling: Profiling, audit: Audit) -> None:
        self._profiling = profiling
        self._audit = audit

    async def post(self, request: Request, seconds: Seconds = 10.0, format: Format = "text") -> Response:  # noqa: A002
        """`format` is `text`, `html`, or `speedscope` for https://speedscope.app."""
        try:
            from pyinstrument import Profiler
        except ImportError:
            raise Problem(501, NOT_INSTALLED) from None
        with self._profiling.alone():
            profiler = Profiler(max(MIN_INTERVAL_SECONDS, seconds / MAX_SAMPLES), async_mode="disabled")
            try:
                profiler.start()
            except RuntimeError as error:  # code of the service uses it too
                raise Problem(409, "Another profiler runs already in this process; wait until it ends.") from error
            self._audit.changed("the CPU profiler", by=client_of(request.scope), seconds=seconds)
            try:
                await self._profiling.wait(seconds)
            finally:
                profiler.stop()
            content = await asyncio.wrap_future(in_thread(lambda: rendered(profiler, format), name="profile"))
        name = f"cpu-profile.{'json' if format == 'speedscope' else format}"
        disposition = "inline" if format == "text" else f'attachment; filename="{name}"'
        headers = {"content-type": MEDIA_TYPES[format], "content-disposition": disposition}
        return Response(content, headers=headers)


def rendered(profiler: "Profiler", format: Format) -> str:  # noqa: A002 - the name of the parameter
    """The result of a profiler that has stopped."""
    if format == "text":
        return profiler.output_text(unicode=True, color=False)
    if format == "html":
        return profiler.output_html()
    from pyinstrument.renderers import SpeedscopeRenderer

    return profiler.output(SpeedscopeRenderer())
