"""Arbitrary bytes in headers cause no failure, no broken log line and no new label."""

import json
import re
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from running import PATIENCE_SECONDS, Service

# The same in every run: a test that fails only at night helps nobody.
steady = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
EVIL = [
    b"\x1b[31m\x1b]0;owned\x07",
    b'"}\n{"event":"request","level":"info"}',
    "\u202eevil\u2028line".encode(),
    b"\xff\xfe\x80",
    b"\x00",
    b"%00%0a%0d",
    b"${jndi:ldap://x}",
    b"00-00000000000000000000000000000000-0000000000000000-01",
    b"ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    b"a=b;c=d,e=f," * 200,
]
values = st.one_of(st.sampled_from(EVIL), st.binary(max_size=200), st.text(max_size=100).map(str.encode))
lines = values.map(lambda value: re.sub(rb"[\r\n]", b"", value))
NAMES = [b"traceparent", b"tracestate", b"baggage", b"x-request-id", b"user-agent", b"accept", b"cookie", b"x"]
fields = st.lists(st.tuples(st.sampled_from(NAMES), lines), max_size=6)
methods = st.one_of(
    st.sampled_from([b"GET", b"POST", b"DELETE", b"PROPFIND", b"M-SEARCH", b"get", b"QUERY"]),
    st.from_regex(rb"[A-Z]{1,20}", fullmatch=True),
)
quoted = st.binary(max_size=30).map(lambda raw: b"".join(b"%%%02X" % byte for byte in raw))
segments = st.one_of(quoted, st.from_regex(rb"[!$&'()*+,;=:@A-Za-z0-9._~%-]{0,40}", fullmatch=True))
targets = st.builds(
    lambda path, query: b"/" + path + (b"?" + query if query else b""),
    st.one_of(segments, segments.map(lambda one: b"orders/" + one), st.just(b"orders")),
    segments,
)


@pytest.fixture(scope="module")
def fuzzed(service: Service) -> Iterator[Service]:
    """The default service, whose log and metrics are looked at when all is over."""
    yield service
    for line in service.output:
        event = json.loads(line)
        assert line.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f]", line), line
        assert event["event"] != "unhandled exception", line
        assert event["level"] in ("info", "warning"), line
    families = text_string_to_metric_families(service.admin.get("/metrics").text)
    labels = [sample.labels for family in families for sample in family.samples]
    allowed = {"GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY", "_OTHER"}
    assert {one["http_request_method"] for one in labels if "http_request_method" in one} <= allowed
    routes = {one["http_route"] for one in labels if "http_route" in one}
    known = {"/orders", "/orders/{order_id}", "/openapi.json", "/docs", "/healthz", "/readyz", "/metrics", "/info"}
    assert routes <= known | {"unmatched"}


def ask(service: Service, method: bytes, target: bytes, fields: list[tuple[bytes, bytes]]) -> bytes:
    """Send a request as it is, with another behind it that ends the connection; returns everything that came."""
    head = b"".join(b"%b: %b\r\n" % field for field in fields)
    last = b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port), PATIENCE_SECONDS) as connection:
        connection.sendall(b"%b %b HTTP/1.1\r\nhost: x\r\n%b\r\n%b" % (method, target, head, last))
        answer = b""
        while part := connection.recv(65_536):
            answer += part
    return answer


def statuses(answer: bytes) -> list[int]:
    """Those of all responses that arrived."""
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


@steady
@given(methods, targets, fields)
@example(b"GET", b"/orders", [(b"x-request-id", b"a" * 4096)])
@example(b"GET", b"/orders/%ff%fe", [(b"traceparent", EVIL[7]), (b"traceparent", EVIL[8])])
def test_any_headers_have_a_response_that_is_no_failure(
    fuzzed: Service, method: bytes, target: bytes, fields: list[tuple[bytes, bytes]]
) -> None:
    found = statuses(ask(fuzzed, method, target, fields))

    assert found
    assert all(status < 500 or status == 501 for status in found), found  # 501: an unknown method
    # Rejected, or one response together with that of the next request, and never more.
    assert len(found) == 2 or (len(found) == 1 and found[0] >= 400)


@steady
@given(lines)
def test_request_id_comes_back_as_it_was_or_is_ours(fuzzed: Service, value: bytes) -> None:
    answer = ask(fuzzed, b"GET", b"/orders", [(b"x-request-id", value)])

    head = answer.partition(b"\r\n\r\n")[0]
    ids = re.findall(rb"\r\nx-request-id: ([^\r]*)", head)
    assert len(ids) == 1
    assert re.fullmatch(rb"[A-Za-z0-9._~:/+=-]{1,128}", ids[0])
    if re.fullmatch(rb"[A-Za-z0-9._~:/+=-]{1,128}", value):
        assert ids[0] == value


@pytest.mark.parametrize("size", [100_000, 10_000_000])
def test_request_id_of_many_bytes_is_rejected(fuzzed: Service, size: int) -> None:
    with socket.create_connection(("127.0.0.1", fuzzed.port), PATIENCE_SECONDS) as connection:
        with suppress(OSError):  # it needn't listen to the end
            connection.sendall(b"GET /orders HTTP/1.1\r\nhost: x\r\nx-request-id: " + b"a" * size + b"\r\n\r\n")
        answer = connection.recv(65_536)
    assert statuses(answer) == [431]


def test_line_break_in_a_field_begins_the_next(fuzzed: Service) -> None:
    answer = ask(fuzzed, b"GET", b"/orders", [(b"x-request-id", b"a\r\nx: b\nhost: evil")])

    assert statuses(answer)[0] == 400
