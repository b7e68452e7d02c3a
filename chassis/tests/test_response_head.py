"""The head of a response, encoded without a socket."""

import pytest

from chassis.http.response_head import ResponseHead, encode_response_head, field_lines

DATE = b"date: Mon, 23 Nov 2026 07:42:54 GMT\r\n"
Headers = list[tuple[bytes, bytes]]


def encode(
    status: int, headers: Headers, *, keep_alive: bool = True, is_head: bool = False, is_http_1_0: bool = False
) -> tuple[bytes, ResponseHead]:
    """The bytes of a head, and the head."""
    head = encode_response_head(status, headers, DATE, keep_alive, is_head, is_http_1_0)
    return b"".join(head.lines), head


def test_head_has_status_date_fields_and_length() -> None:
    sent, head = encode(200, [(b"content-type", b"text/plain"), (b"content-length", b"5")])
    assert sent == b"HTTP/1.1 200 OK\r\n" + DATE + b"content-type: text/plain\r\ncontent-length: 5\r\n\r\n"
    assert (head.content_length, head.chunked, head.keep_alive) == (5, False, True)


def test_content_without_a_length_is_chunked() -> None:
    sent, head = encode(200, [])
    assert sent.endswith(b"transfer-encoding: chunked\r\n\r\n")
    assert (head.content_length, head.chunked) == (None, True)


def test_declared_chunks_replace_a_length() -> None:
    sent, head = encode(200, [(b"content-length", b"5"), (b"Transfer-Encoding", b"Chunked")])
    assert b"content-length" not in sent
    assert sent.count(b"transfer-encoding: chunked") == 1
    assert (head.content_length, head.chunked) == (None, True)


@pytest.mark.parametrize("headers", [[], [(b"transfer-encoding", b"chunked")]])
def test_content_for_http_1_0_ends_with_the_connection(headers: Headers) -> None:
    sent, head = encode(200, headers, keep_alive=False, is_http_1_0=True)
    assert b"transfer-encoding" not in sent
    assert b"connection: close" in sent
    assert (head.content_length, head.chunked, head.keep_alive) == (None, False, False)


@pytest.mark.parametrize(("status", "is_head"), [(200, True), (304, False)])
def test_length_without_content_is_sent_and_not_awaited(status: int, is_head: bool) -> None:
    sent, head = encode(status, [(b"content-length", b"5")], is_head=is_head)
    assert b"content-length: 5\r\n" in sent
    assert (head.content_length, head.chunked) == (0, False)


@pytest.mark.parametrize(("status", "is_head"), [(200, True), (204, False), (304, False)])
def test_response_without_content_needs_no_framing(status: int, is_head: bool) -> None:
    sent, head = encode(status, [], is_head=is_head)
    assert b"transfer-encoding" not in sent
    assert b"content-length" not in sent
    assert (head.content_length, head.chunked) == (0, False)


def test_status_204_has_no_length() -> None:
    sent, _ = encode(204, [(b"content-length", b"0")])
    assert b"content-length" not in sent


@pytest.mark.parametrize("value", [b"close", b"Close", b"x-option, close"])
def test_application_may_close_the_connection(value: bytes) -> None:
    sent, head = encode(200, [(b"Connection", value), (b"content-length", b"0")])
    assert sent.count(b"connection: ") == 1
    assert sent.endswith(b"connection: close\r\n\r\n")
    assert not head.keep_alive


def test_application_cannot_keep_the_connection_open() -> None:
    sent, head = encode(200, [(b"connection", b"keep-alive"), (b"content-length", b"0")], keep_alive=False)
    assert b"keep-alive" not in sent
    assert not head.keep_alive


def test_date_of_the_application_replaces_ours() -> None:
    sent, _ = encode(200, [(b"Date", b"Tue, 24 Nov 2026 00:00:00 GMT")])
    assert sent.startswith(b"HTTP/1.1 200 OK\r\ndate: Tue, 24 Nov 2026 00:00:00 GMT\r\n")
    assert sent.count(b"date: ") == 1


def test_names_are_sent_in_lower_case() -> None:
    sent, _ = encode(200, [(b"X-Name", b"Value")])
    assert b"\r\nx-name: Value\r\n" in sent


def test_headers_may_be_lists_of_lists_and_any_iterable() -> None:
    for headers in ([[b"x-a", b"1"], [b"content-length", b"2"]], iter([[b"x-a", b"1"], (b"content-length", b"2")])):
        head = encode_response_head(200, headers, DATE, True)
        assert b"".join(head.lines).endswith(b"x-a: 1\r\ncontent-length: 2\r\n\r\n")


def test_status_without_a_phrase_is_sent() -> None:
    assert encode(299, [])[0].startswith(b"HTTP/1.1 299 \r\n")


@pytest.mark.parametrize("status", [0, 99, 101, 1000])
def test_status_that_is_not_final_is_an_error(status: int) -> None:
    with pytest.raises(RuntimeError, match="200 to 999"):
        encode(status, [])


@pytest.mark.parametrize(
    "field",
    [
        (b"x-bad", b"a\r\nset-cookie: b"),
        (b"x-bad", b"a\x00"),
        (b"x-bad", b"a\x7f"),
        (b"x bad", b"a"),
        (b"", b"a"),
        (b"content-length", b"+5"),
        (b"content-length", b"five"),
        (b"transfer-encoding", b"gzip"),
    ],
)
def test_field_that_would_break_the_message_is_an_error(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(RuntimeError, match="nvalid"):
        encode(200, [field])
    assert field not in field_lines


def test_two_lengths_are_an_error_unless_they_are_equal() -> None:
    length = (b"content-length", b"5")
    assert encode(200, [length, length])[0].count(b"content-length: 5\r\n") == 1
    with pytest.raises(RuntimeError, match="5 and 6"):
        encode(200, [length, (b"content-length", b"6")])


def test_repeated_fields_are_cached_and_varying_ones_are_not() -> None:
    encode(200, [(b"x-cached", b"1"), (b"set-cookie", b"session=1"), (b"x-large", b"x" * 1000)])
    assert field_lines[b"x-cached", b"1"] == b"x-cached: 1\r\n"
    assert (b"set-cookie", b"session=1") not in field_lines
    encode_response_head(200, [(b"ratelimit", b'"default";r=1;t=1')], b"", keep_alive=True)
    assert (b"ratelimit", b'"default";r=1;t=1') not in field_lines  # its value differs each time
    assert (b"x-large", b"x" * 1000) not in field_lines
