"""The checks of a request's head, without a socket."""

import httptools
import pytest

from chassis import Problem
from chassis.http import request_head

from .support.listener import limits_of


def status_of(error: pytest.ExceptionInfo[Problem]) -> int:
    return error.value.status_code


@pytest.mark.parametrize(
    "host", [b"x", b"x.example:8000", b"127.0.0.1", b"[::1]:80", b"[v1.fe80:a+en1]:80", b"a_b-c~d"]
)
def test_valid_host_is_accepted(host: bytes) -> None:
    request_head.check_host(host, "1.1")


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b":80",
        b"a b",
        b"a/b",
        b"user@a",
        b"a:80:80",
        b"[::1",
        b"[v1]",
        b"[v1.]",
        b"[a.b]",
        b"a,b:c",
        b"\xe9",
        b"a\n",
    ],
)
def test_invalid_host_is_400(host: bytes) -> None:
    with pytest.raises(Problem) as error:
        request_head.check_host(host, "1.1")
    assert status_of(error) == 400


def test_only_http_1_0_may_have_no_host() -> None:
    request_head.check_host(None, "1.0")
    request_head.check_host(b"", "1.0")
    request_head.check_host(b"", "1.1", has_authority=True)
    with pytest.raises(Problem) as error:
        request_head.check_host(None, "1.1")
    assert status_of(error) == 400


@pytest.mark.parametrize("version", ["0.9", "2.0"])
def test_other_version_is_505(version: str) -> None:
    with pytest.raises(Problem) as error:
        request_head.check_version(version)
    assert status_of(error) == 505


@pytest.mark.parametrize("coding", [b"chunked", b"Chunked"])
def test_chunked_is_accepted(coding: bytes) -> None:
    request_head.check_transfer_coding(coding, "1.1")


@pytest.mark.parametrize(
    ("coding", "version", "status"),
    [
        (b"gzip, chunked", "1.1", 501),
        (b"identity,chunked", "1.1", 501),
        (b"chunked, gzip", "1.1", 400),
        (b"", "1.1", 400),
        (b"chunked", "1.0", 400),
    ],
)
def test_other_transfer_coding_is_rejected(coding: bytes, version: str, status: int) -> None:
    with pytest.raises(Problem) as error:
        request_head.check_transfer_coding(coding, version)
    assert status_of(error) == status


@pytest.mark.parametrize(
    ("target", "value_bytes", "status"), [(b"/" + b"x" * 100, 0, 414), (b"/", 200, 431), (b"/" + b"x" * 90, 110, 431)]
)
def test_head_over_a_limit_is_rejected(target: bytes, value_bytes: int, status: int) -> None:
    limits = limits_of(max_target_bytes=100, max_head_bytes=200)
    with pytest.raises(Problem) as error:
        request_head.check_size(target, [(b"x", b"y" * value_bytes)], limits)
    assert status_of(error) == status


def test_head_within_the_limits_is_accepted() -> None:
    limits = limits_of(max_target_bytes=100, max_head_bytes=200)
    request_head.check_size(b"/" + b"x" * 99, [(b"x", b"y" * 95)], limits)


@pytest.mark.parametrize(
    ("target", "method", "path", "query", "authority"),
    [
        (b"/a/b?c=d?e", b"GET", b"/a/b", b"c=d?e", None),
        (b"//a", b"GET", b"//a", b"", None),
        (b"/a#b?c", b"GET", b"/a", b"", None),
        (b"http://x/a?b", b"GET", b"/a", b"b", b"x"),
        (b"HTTP://x:80?b", b"GET", b"/", b"b", b"x:80"),
        (b"http://[::1]:80/", b"GET", b"/", b"", b"[::1]:80"),
        (b"https://x", b"GET", b"/", b"", b"x"),
        (b"*", b"OPTIONS", b"*", b"", None),
    ],
)
def test_target_has_a_path_and_a_query_and_may_have_an_authority(
    target: bytes, method: bytes, path: bytes, query: bytes, authority: bytes | None
) -> None:
    assert request_head.split_other_target(target, method) == (path, query, authority)


@pytest.mark.parametrize(
    ("target", "method"),
    [(b"ftp://x/a", b"GET"), (b"x:80", b"GET"), (b"*", b"GET"), (b"http:///a", b"GET"), (b"http://u@x/a", b"GET")],
)
def test_other_target_is_an_error(target: bytes, method: bytes) -> None:
    with pytest.raises((Problem, httptools.HttpParserError)):
        request_head.split_other_target(target, method)


@pytest.mark.parametrize(
    ("connection", "upgrade", "asks"),
    [
        ([b"Upgrade"], [b"websocket"], True),
        ([b"keep-alive, Upgrade"], [b"WebSocket"], True),
        ([b"keep-alive", b"upgrade"], [b"websocket"], True),
        ([b"keep-alive"], [b"websocket"], False),
        ([b"upgrade"], [b"h2c"], False),
        ([b"upgrade"], [], False),
        ([], [b"websocket"], False),
    ],
)
def test_websocket_is_asked_for_by_two_fields(connection: list[bytes], upgrade: list[bytes], asks: bool) -> None:
    headers = [*((b"connection", value) for value in connection), *((b"upgrade", value) for value in upgrade)]
    assert request_head.asks_for_websocket(b"GET", headers) is asks


def test_connect_is_400() -> None:
    with pytest.raises(Problem) as error:
        request_head.asks_for_websocket(b"CONNECT", [])
    assert status_of(error) == 400


def test_head_can_be_written_without_its_upgrade() -> None:
    headers = [(b"host", b"x"), (b"upgrade", b"h2c"), (b"content-length", b"1")]
    head = request_head.without_upgrade(b"POST", b"/a?b", "1.1", headers)
    assert head == b"POST /a?b HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n"
