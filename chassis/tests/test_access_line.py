"""The access line, whatever a client or an application puts into it."""

from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from chassis import annotate
from chassis.context import RequestContext
from chassis.request_info import RequestInfo
from chassis.response_sender import NO_HEADERS
from chassis.telemetry.access_line import MEMBERS, access_line
from chassis.telemetry.observation import Observation, ObservationRules

from .support.service import serve, until

TEXTS = st.text(st.characters(exclude_categories=()), max_size=20)  # with controls, quotes and lone surrogates
RULES = ObservationRules(lambda observation: None, NO_HEADERS, 0, None)


async def send(message: Message) -> None: ...


@given(path=TEXTS, method=TEXTS, route=TEXTS, client=TEXTS | st.none(), request_id=TEXTS, seconds=st.floats(0, 1e9))
def test_line_is_one_json_object(
    path: str, method: str, route: str, client: str | None, request_id: str, seconds: float
) -> None:
    context = RequestContext("a" * 32, "b" * 16, "caller-1", False)
    scope: dict[str, Any] = {"path": path, "method": method, "client": None if client is None else (client, 1)}
    observation = Observation(scope, "GET", RequestInfo(), context, send, RULES)
    observation.request_id, observation.seconds = request_id, seconds

    line = access_line(observation, b'"2026-11-28T12:00:00Z"', "info", 200, route, 7, 8) + b"}"

    found = orjson.loads(line)
    assert b"\n" not in line
    assert tuple(found) == MEMBERS
    assert [found[key] for key in ("path", "method", "route", "request_id")] == [
        shown(value) for value in (path, method, route, request_id)
    ]
    assert found["client"] == (None if client is None else shown(client))
    assert found["duration_ms"] == int(seconds * 1_000_000) / 1000
    assert [found[key] for key in ("status", "request_bytes", "response_bytes", "trace_id")] == [200, 7, 8, "a" * 32]


def shown(value: str) -> str:
    """A text as JSON can have it."""
    return value.encode("utf-8", "backslashreplace").decode()


async def odd(request: Request) -> Response:
    request.scope["chassis.request"].subject = 'Ada "A" \x7f'
    annotate(subject="of the owner", status="new", note="n")
    return Response(status_code=201, headers={"x-request-id": 'own "id"'})


async def test_line_of_a_request_keeps_its_own_members() -> None:
    async with serve(Route("/{name}", odd)) as service:
        await service.client.get("/%7F%22%C2%85")
        (line,) = await until(lambda: service.seen.events("request"))
    assert (line["path"], line["request_id"], line["subject"]) == ('/\x7f"\x85', 'own "id"', 'Ada "A" \x7f')
    assert (line["status"], line["status_"], line["subject_"], line["note"]) == (201, "new", "of the owner", "n")
