"""The facts about a request: its fields, read once, and the size of its body."""

from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from chassis import Problem
from chassis.middleware import GuardMiddleware
from chassis.request_info import REQUEST_INFO, RequestInfo


def scope_with(*headers: tuple[bytes, bytes], **scope: Any) -> Scope:
    return {"type": "http", "method": "POST", "path": "/", "http_version": "1.1", "headers": headers, **scope}


def chunks(*bodies: bytes) -> Receive:
    """A `receive` that delivers a body in these parts."""
    left = list(bodies)

    async def receive() -> Message:
        return {"type": "http.request", "body": left.pop(0), "more_body": bool(left)}

    return receive


def test_fields_are_found_in_the_headers() -> None:
    info = RequestInfo.of(
        scope_with(
            (b"host", b"a:80"), (b"user-agent", b"b"), (b"x-request-id", b"c"), (b"content-length", b"5"), (b"x", b"y")
        )
    )
    assert (info.host, info.user_agent, info.request_id) == (b"a:80", b"b", "c")
    assert (info.content_length, info.has_body) == (5, True)


def test_headers_are_scanned_once() -> None:
    scope = scope_with((b"host", b"a"))
    info = RequestInfo.of(scope)
    scope["headers"] = []
    assert RequestInfo.of(scope) is info
    assert scope[REQUEST_INFO] is info


def test_fields_that_the_server_noted_are_used() -> None:
    info = RequestInfo(read_at=5.0)
    info.note(b"host", b"noted")
    found = RequestInfo.of(scope_with((b"host", b"other"), **{REQUEST_INFO: info}))
    assert (found.host, found.read_at) == (b"noted", 5.0)


@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"+5", b" 5", b"1_000", b"5,5", b"\xb2"])
def test_invalid_content_length_is_ignored(value: bytes) -> None:
    info = RequestInfo.of(scope_with((b"content-length", value)))
    assert (info.content_length, info.has_body) == (None, True)


def test_content_length_with_thousands_of_digits_is_large() -> None:
    assert (RequestInfo.of(scope_with((b"content-length", b"9" * 5000))).content_length or 0) > 10**15


@pytest.mark.parametrize(("version", "has_body"), [("1.0", False), ("1.1", False), ("2", True), ("3", True)])
def test_request_of_a_later_version_may_have_a_body_without_a_field(version: str, has_body: bool) -> None:
    assert RequestInfo.of(scope_with(http_version=version)).has_body is has_body


def test_two_traceparents_count_as_none() -> None:
    info = RequestInfo.of(scope_with((b"traceparent", b"a"), (b"traceparent", b"b"), (b"traceparent", b"c")))
    assert info.traceparent == b""


def test_fields_of_the_propagators_are_kept_in_order() -> None:
    info = RequestInfo.of(scope_with((b"baggage", b"a=1"), (b"tracestate", b"b=2"), (b"baggage", b"c=3")))
    assert info.context_fields == {"baggage": ["a=1", "c=3"], "tracestate": ["b=2"]}


async def test_body_is_counted_up_to_the_limit() -> None:
    info = RequestInfo.of(scope_with((b"transfer-encoding", b"chunked")))
    info.max_body_bytes = 5
    receive = info.counting(chunks(b"123", b"45", b"6"))
    await receive()
    await receive()
    assert info.body_bytes == 5
    with pytest.raises(Problem) as caught:
        await receive()
    assert caught.value.status_code == 413


async def test_body_is_counted_once_for_all_layers() -> None:
    info = RequestInfo.of(scope_with((b"transfer-encoding", b"chunked")))
    await info.counting(info.counting(chunks(b"123")))()
    assert info.body_bytes == 3


def test_receive_of_a_request_without_a_body_is_unchanged() -> None:
    receive = chunks(b"")
    assert RequestInfo.of(scope_with()).counting(receive) is receive


async def read_all(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that reads its request, and responds with 204."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})


@pytest.mark.parametrize(
    ("headers", "scope"),
    [
        ([(b"content-length", b"11")], {}),
        ([(b"content-length", b"x")], {}),
        ([(b"transfer-encoding", b"chunked")], {}),
        ([], {"http_version": "2"}),
    ],
)
@pytest.mark.parametrize(("limit", "status"), [(10, 413), (11, 204)])
async def test_guard_without_telemetry_limits_the_body(
    headers: list[tuple[bytes, bytes]], scope: dict[str, Any], limit: int, status: int
) -> None:
    statuses: list[int] = []

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    guard = GuardMiddleware(read_all, max_body_bytes=limit, deadline_seconds=5)
    await guard(scope_with(*headers, **scope), chunks(b"12345", b"678901"), send)
    assert statuses == [status]


async def test_inner_guard_may_only_be_stricter() -> None:
    for outer, inner in ((10, 100), (100, 10)):
        statuses: list[int] = []

        async def send(message: Message, statuses: list[int] = statuses) -> None:
            if message["type"] == "http.response.start":
                statuses.append(message["status"])

        guard = GuardMiddleware(read_all, max_body_bytes=inner, deadline_seconds=5)
        guard = GuardMiddleware(guard, max_body_bytes=outer, deadline_seconds=5)
        await guard(scope_with((b"transfer-encoding", b"chunked")), chunks(b"12345", b"678901"), send)
        assert statuses == [413]
