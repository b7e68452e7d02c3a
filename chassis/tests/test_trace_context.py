"""W3C trace context and baggage: continued, never trusted further than the standard says."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from opentelemetry import baggage, propagate, trace
from starlette.requests import Request

from chassis import Handler, Route

from .support.service import PARENT_ID, SAMPLED, TRACE_ID, UNSAMPLED, Service, exchange, serve


class Context(Handler):
    """Tells what the handler sees, and what a call to another service would carry."""

    async def get(self, request: Request) -> dict[str, Any]:
        await asyncio.sleep(0)
        current = trace.get_current_span().get_span_context()
        carried: dict[str, str] = {}
        propagate.inject(carried)
        return {
            "trace_id": f"{current.trace_id:032x}",
            "span_id": f"{current.span_id:016x}",
            "sampled": current.trace_flags.sampled,
            "baggage": dict(baggage.get_all()),
            "carried": carried,
        }

    async def put(self, request: Request) -> str:
        carried: dict[str, str] = {}
        with request.app.telemetry.tracing.provider.get_tracer("test").start_as_current_span("child"):
            propagate.inject(carried)
        return carried["traceparent"]

    def post(self) -> dict[str, Any]:
        current = trace.get_current_span().get_span_context()
        return {"trace_id": f"{current.trace_id:032x}", "baggage": dict(baggage.get_all())}


@pytest.fixture(scope="module")
async def service() -> AsyncIterator[Service]:
    async with serve(Route("/", Context())) as service:
        yield service


async def context(service: Service, **headers: str) -> dict[str, Any]:
    """What the handler saw."""
    found: dict[str, Any] = (await service.client.get("/", headers=headers)).json()
    return found


@pytest.mark.parametrize(("headers", "sampled"), [(SAMPLED, True), (UNSAMPLED, False)])
async def test_trace_is_continued(service: Service, headers: dict[str, str], sampled: bool) -> None:
    seen = await context(service, **headers)
    assert (seen["trace_id"], seen["sampled"]) == (TRACE_ID, sampled)
    assert seen["span_id"] not in (PARENT_ID, "0" * 16)


@pytest.mark.parametrize(
    ("flags", "carried"),
    [("00", "00"), ("01", "01"), ("02", "02"), ("03", "03"), ("ff", "03"), ("fc", "00"), ("fd", "01")],
)
@pytest.mark.parametrize("more", [{}, {"baggage": "tenant=acme"}, {"tracestate": "vendor=one"}])
async def test_outbound_calls_continue_the_request(
    service: Service, flags: str, carried: str, more: dict[str, str]
) -> None:
    """With the flags of W3C Trace Context level 2; it says that all others are set to zero."""
    seen = await context(service, traceparent=f"00-{TRACE_ID}-{PARENT_ID}-{flags}", **more)
    assert seen["carried"]["traceparent"] == f"00-{TRACE_ID}-{seen['span_id']}-{carried}"


@pytest.mark.parametrize("headers", [{}, {"baggage": "tenant=acme"}, {"traceparent": "garbage"}])
async def test_trace_that_begins_here_says_that_its_id_is_random(service: Service, headers: dict[str, str]) -> None:
    seen = await context(service, **headers)
    assert seen["carried"]["traceparent"] == f"00-{seen['trace_id']}-{seen['span_id']}-0{2 + seen['sampled']}"


async def test_spans_of_handlers_keep_the_flag(service: Service) -> None:
    for flags in ("01", "03"):
        answer = await service.client.put("/", headers={"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-{flags}"})
        assert answer.json().endswith(f"-{flags}")


async def test_trace_begins_here_without_a_header(service: Service) -> None:
    one, other = await context(service), await context(service)
    assert one["trace_id"] != other["trace_id"]
    assert "0" * 32 not in (one["trace_id"], other["trace_id"])


@pytest.mark.parametrize(
    "traceparent",
    [
        "",
        "garbage",
        f"00-{TRACE_ID}-{PARENT_ID}",
        f"00-{TRACE_ID.upper()}-{PARENT_ID}-01",
        f"00-{'0' * 32}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{'0' * 16}-01",
        f"ff-{TRACE_ID}-{PARENT_ID}-01",
        f"00-{TRACE_ID}-{PARENT_ID}-01-extra",
        f"00-{TRACE_ID}-{PARENT_ID}-xx",
        f"0-{TRACE_ID}-{PARENT_ID}-01",
        "00-" + "a" * 5000,
    ],
)
async def test_invalid_traceparent_begins_a_new_trace(service: Service, traceparent: str) -> None:
    seen = await context(service, traceparent=traceparent)
    assert seen["trace_id"] not in (TRACE_ID, "0" * 32)


@pytest.mark.parametrize("rest", ["", "-what.comes"])
async def test_traceparent_of_a_later_version_is_continued(service: Service, rest: str) -> None:
    seen = await context(service, traceparent=f"cc-{TRACE_ID}-{PARENT_ID}-03{rest}")
    assert seen["carried"]["traceparent"] == f"00-{TRACE_ID}-{seen['span_id']}-03"


async def test_two_traceparents_are_as_good_as_none(service: Service) -> None:
    header = b"traceparent: 00-%s-%s-01\r\n" % (TRACE_ID.encode(), PARENT_ID.encode())
    answer = await exchange(
        service.server.port, b"GET / HTTP/1.1\r\nhost: x\r\n" + header * 2 + b"connection: close\r\n\r\n"
    )
    assert b" 200 " in answer.partition(b"\r\n")[0]
    assert TRACE_ID.encode() not in answer


async def test_tracestate_is_carried_on(service: Service) -> None:
    seen = await context(service, **SAMPLED, tracestate="vendor=one,other=two")
    assert seen["trace_id"] == TRACE_ID
    assert seen["carried"]["tracestate"] == "vendor=one,other=two"


async def test_tracestate_without_a_trace_is_dropped(service: Service) -> None:
    assert "tracestate" not in (await context(service, tracestate="vendor=one"))["carried"]


async def test_baggage_is_seen_and_carried_on(service: Service) -> None:
    seen = await context(service, **SAMPLED, baggage="tenant=acme,user=a%20b")
    assert seen["trace_id"] == TRACE_ID
    assert seen["baggage"] == {"tenant": "acme", "user": "a b"}
    assert seen["carried"]["baggage"] == "tenant=acme,user=a+b"


async def test_baggage_alone_is_seen(service: Service) -> None:
    assert (await context(service, baggage="tenant=acme"))["baggage"] == {"tenant": "acme"}


async def test_threads_see_the_context(service: Service) -> None:
    seen = (await service.client.post("/", headers={**SAMPLED, "baggage": "tenant=acme"})).json()
    assert seen == {"trace_id": TRACE_ID, "baggage": {"tenant": "acme"}}


@pytest.mark.parametrize("name", [b"tracestate", b"baggage"])
@pytest.mark.parametrize(
    "value", [b"", b"=", b",,,", b"a" * 10_000, b"a=b," * 1000, b"\xff\xfe=\xff", b"a=%zz", b'a="b', b"a=b;c;d=;="]
)
async def test_hostile_propagation_headers_do_no_harm(service: Service, name: bytes, value: bytes) -> None:
    headers = b"traceparent: 00-%s-%s-01\r\n%s: %s\r\n" % (TRACE_ID.encode(), PARENT_ID.encode(), name, value)
    answer = await exchange(
        service.server.port, b"GET / HTTP/1.1\r\nhost: x\r\n" + headers + b"connection: close\r\n\r\n"
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert TRACE_ID.encode() in answer


async def test_context_does_not_leak_between_concurrent_requests(service: Service) -> None:
    seen = await asyncio.gather(*(context(service, baggage=f"number={number}") for number in range(50)))
    assert [one["baggage"]["number"] for one in seen] == [str(number) for number in range(50)]
    assert len({one["trace_id"] for one in seen}) == 50


async def test_context_does_not_leak_between_pipelined_requests(service: Service) -> None:
    with_baggage = b"GET / HTTP/1.1\r\nhost: x\r\nbaggage: number=1\r\n\r\n"
    without = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answers = await exchange(service.server.port, with_baggage + without)
    assert answers.count(b'"baggage":{"number":"1"}') == 1
    assert answers.count(b'"baggage":{}') == 1
