"""The admin port of a service with several workers: one report for all, and changes for all."""

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from ..middleware.security import DEFAULT_SECURITY_HEADERS
from ..operations.access import OperatorAccess
from ..operations.platform_routes import accepts_gzip
from ..problem import Problem, send_problem
from ..telemetry.log_writer import LineWriter
from .changes import Changes
from .metrics import SUPERVISOR, WorkerMetrics
from .own_lines import PATH, OwnLines
from .pool import WorkerPool
from .requests import HOST, NoResponseError, WorkerResponse
from .worker import PEER_FIELD
from .worker_process import RESPONSE_SECONDS, WorkerProcess

# One more byte than the workers accept: they reject it.
MAX_BODY_BYTES = 65_537
READINESS_SECONDS = 10.0
# After the first good report, for those of the other workers: a probe must not wait for one that hangs.
LAST_REPORTS_SECONDS = 0.5
# Headers of one connection, and those that the supervisor sets itself.
NOT_FORWARDED = frozenset(
    {
        b"connection",
        b"content-length",
        b"keep-alive",
        b"transfer-encoding",
        b"accept-encoding",
        b"expect",
        PEER_FIELD,
    }
)
NOT_RETURNED = frozenset({b"connection", b"content-length", b"date", b"keep-alive", b"transfer-encoding"})

Slot = int | Literal["supervisor"]
Answer = tuple[Slot, WorkerResponse | None]
"""The response of a worker, or of the supervisor itself."""


class AdminPort:
    """The ASGI application of the admin port.

    Health, readiness, metrics and info are those of the pod. Every other request is for operators. If `access` allows
    it, it goes to all workers, or with `?worker=0` to one of them. So a changed token counts at once for all workers.
    Arrays of objects in their responses are joined, and each object gets its `worker`. Any other response is that of
    the first worker, or the first error. A successful `PUT` is repeated to workers that start later. `/logs` has the
    lines of the supervisor, too.
    """

    def __init__(self, pool: WorkerPool, metrics: WorkerMetrics, access: OperatorAccess, writer: LineWriter) -> None:
        self._pool = pool
        self._metrics = metrics
        self._access = access
        self._own_lines = OwnLines(writer)
        self._changes = Changes()
        self._started = datetime.now(UTC).isoformat(timespec="seconds")
        self._pages = {"/healthz": self._liveness, "/readyz": self._readiness, "/metrics": self._page}
        self._pages["/info"] = self._info

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        page = self._pages.get(scope["path"]) if request.method in ("GET", "HEAD") else None
        try:
            response = await (page or self._forward)(request)
        except Problem as problem:
            await send_problem(send, problem)
            return
        for name, value in DEFAULT_SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        await response(scope, receive, send)

    async def repeat_changes(self, worker: WorkerProcess) -> None:
        """Repeat the changes of operators to a worker that has started."""
        for change, body in self._changes.of(worker.slot):
            try:
                await worker.request("PUT", change.target, change.headers, body)
            except NoResponseError:
                return

    async def _liveness(self, _request: Request) -> Response:
        """200 as long as the supervisor responds, because it replaces workers that do not."""
        return JSONResponse({"status": "alive"})

    async def _readiness(self, _request: Request) -> Response:
        answers = await self._reports(b"/readyz")
        documents = {slot: (response, _document(response)) for slot, response in answers}
        is_ready = not self._pool.is_stopping and any(r is not None and r.is_success for r, _ in documents.values())
        states = [str(document.get("status", "unknown")) for _, document in documents.values()]
        status = next(iter(states), "starting")
        if self._pool.is_stopping:
            status = "draining"
        elif is_ready:
            status = "ready"
        checks = merged_checks([document.get("checks", {}) for _, document in documents.values()])
        shown = [
            {**facts, "status": documents[facts["worker"]][1].get("status", "unknown")}
            if facts["worker"] in documents and facts["status"] == "ready"
            else facts
            for facts in self._workers()
        ]
        return JSONResponse({"status": status, "checks": checks, "workers": shown}, 200 if is_ready else 503)

    async def _page(self, request: Request) -> Response:
        compress = accepts_gzip(request.headers.get("accept-encoding", ""))
        page = await self._metrics.page(
            lambda: self._pool.workers, request.headers.get("accept", ""), compress=compress
        )
        fields = {"content-type": page.content_type, "vary": "Accept, Accept-Encoding"}
        if page.is_compressed:
            fields["content-encoding"] = "gzip"
        return Response(page.content, headers=fields)

    async def _info(self, _request: Request) -> Response:
        answers = await self._reports(b"/info")
        info = next((_document(response) for _, response in answers if response is not None), {})
        return JSONResponse({**info, "started": self._started, "workers": self._workers()})

    def _workers(self) -> list[dict[str, Any]]:
        ordered = sorted(self._pool.workers, key=lambda worker: (worker.slot, worker.number))
        return [{"worker": one.slot, "pid": one.process, "status": str(one.state)} for one in ordered]

    async def _forward(self, request: Request) -> Response:
        self._access.check(request.scope)
        target, slot = forwarded_target(request.scope)
        own: list[Answer] = []
        if slot in (None, SUPERVISOR) and self._own_lines.concerns(request.scope):
            own = [(SUPERVISOR, await self._own_lines.respond(request.scope, target, request.receive))]
        elif slot == SUPERVISOR:
            raise Problem(422, f"The supervisor has only {PATH}; pass the number of a worker, such as worker=0.")
        workers = [worker for worker in self._pool.ready if slot in (None, worker.slot)]
        if not workers and not own:
            which = "no worker is ready" if slot is None else f"worker {slot} is not ready, or there is none"
            raise Problem(503, f"The service has no worker to ask: {which}.", headers={"retry-after": "1"})
        method = "GET" if request.method == "HEAD" else request.method
        headers = forwarded_headers(request.scope)
        body = await _body(request)
        answers = await self._ask(workers, method, target, headers, body)
        response = joined([*answers, *own])
        if 200 <= response.status_code < 300 and slot != SUPERVISOR:
            self._changes.note(method, target, slot, headers, body, bytes(response.body))
        return response

    async def _reports(self, path: bytes) -> list[Answer]:
        """The responses of all ready workers; None for one that hangs while another one reports success."""
        workers = sorted(self._pool.ready, key=lambda worker: worker.slot)
        asking = [
            asyncio.create_task(_ask_one(worker, "GET", path, HOST, seconds=READINESS_SECONDS)) for worker in workers
        ]
        waiting, has_success = {*asking}, False
        try:
            while waiting and not has_success:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                responses = [task.result()[1] for task in done]
                has_success = any(response is not None and response.is_success for response in responses)
            if waiting:
                await asyncio.wait(waiting, timeout=LAST_REPORTS_SECONDS)
        finally:
            for task in waiting:
                task.cancel()
        return [
            task.result() if task.done() else (worker.slot, None) for worker, task in zip(workers, asking, strict=True)
        ]

    async def _ask(
        self,
        workers: Sequence[WorkerProcess],
        method: str,
        target: bytes,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
    ) -> list[Answer]:
        """The responses of the workers, in the order of their slots; None for a worker without one."""
        ordered = sorted(workers, key=lambda worker: worker.slot)
        return list(await asyncio.gather(*(_ask_one(worker, method, target, headers, body) for worker in ordered)))


async def _ask_one(
    worker: WorkerProcess,
    method: str,
    target: bytes,
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes = b"",
    *,
    seconds: float = RESPONSE_SECONDS,
) -> Answer:
    try:
        return worker.slot, await worker.request(method, target, headers, body, seconds=seconds)
    except NoResponseError:
        return worker.slot, None


def forwarded_target(scope: Scope) -> tuple[bytes, Slot | None]:
    """The target of a request without its parameter `worker`, and the value of that.

    Raises `Problem` unless it is a number or `supervisor`.
    """
    path: bytes = scope["raw_path"]
    query: bytes = scope["query_string"]
    if b"worker=" not in query:
        return (path + b"?" + query if query else path), None
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    numbers = [value for name, value in pairs if name == "worker"]
    rest = urlencode([pair for pair in pairs if pair[0] != "worker"]).encode()
    if not numbers:
        return path + b"?" + query, None
    target = path + b"?" + rest if rest else path
    if numbers[0] == SUPERVISOR:
        return target, SUPERVISOR
    if not numbers[0].isdecimal():
        raise Problem(422, f"Invalid worker {numbers[0]!r}; pass its number, such as worker=0.")
    return target, int(numbers[0])


def forwarded_headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """The headers for a worker, with the addresses of the connection to the admin port."""
    headers = [(name, value) for name, value in scope["headers"] if name not in NOT_FORWARDED]
    (host, port), (own_host, own_port) = scope["client"], scope["server"]
    return [*headers, (PEER_FIELD, f"{host} {port} {own_host} {own_port}".encode())]


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) >= MAX_BODY_BYTES:
            return bytes(body[:MAX_BODY_BYTES])
    return bytes(body)


def joined(answers: Sequence[Answer]) -> Response:
    """One response for those of several workers. Raises `Problem` without any."""
    responses = [(slot, response) for slot, response in answers if response is not None]
    if not responses:
        raise Problem(502, "No worker has responded; see the log.")
    failures = [response for _, response in responses if response.status >= 400]
    _, first = responses[0]
    if failures:
        first = failures[0]
    else:
        arrays = [(slot, _array(response)) for slot, response in responses]
        if all(array is not None for _, array in arrays):
            items = [{"worker": slot, **item} for slot, array in arrays for item in array or ()]
            first.body = orjson.dumps(items)
    response = Response(first.body, first.status)
    response.raw_headers = [(name, value) for name, value in first.headers if name not in NOT_RETURNED]
    response.raw_headers.append((b"content-length", b"%d" % len(first.body)))
    return response


def _array(response: WorkerResponse) -> list[dict[str, Any]] | None:
    """The objects of a JSON array; None for any other body."""
    if not response.header(b"content-type").startswith(b"application/json"):
        return None
    try:
        document: Any = orjson.loads(response.body)
    except ValueError:  # an owner's JSON may have NaN
        return None
    return document if isinstance(document, list) and all(isinstance(item, dict) for item in document) else None


def _document(response: WorkerResponse | None) -> dict[str, Any]:
    if response is None:
        return {}
    try:
        document: Any = orjson.loads(response.body)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def merged_checks(reports: Sequence[Mapping[str, Mapping[str, Any]]]) -> dict[str, Mapping[str, Any]]:
    """The worst result of each check."""
    merged: dict[str, Mapping[str, Any]] = {}
    for report in reports:
        for name, result in report.items():
            if name not in merged or merged[name].get("status") == "pass":
                merged[name] = result
    return merged
