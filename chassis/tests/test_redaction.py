"""Secrets don't reach the log, however deep they are."""

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from .support.service import Observed, observed

SECRET = "s3cr3t"  # noqa: S105 - what must not be shown


@pytest.fixture
def seen() -> Iterator[Observed]:
    with observed(redact=["iban", "X-Api-Key"]) as seen:
        yield seen


@pytest.mark.parametrize(
    "values",
    [
        {"authorization": SECRET},
        {"Authorization": SECRET},
        {"cookie": SECRET},
        {"set_cookie": SECRET},
        {"proxy_authorization": SECRET},
        {"password": SECRET},
        {"token": SECRET},
        {"iban": SECRET},
        {"IBAN": SECRET},
        {"x_api_key": SECRET},
        {"headers": {"Authorization": SECRET, "x-api-key": SECRET}},
        {"order": {"payment": {"iban": SECRET}}},
        {"password": {"hash": SECRET}},
        {"payments": [{"iban": SECRET}]},
        {"payments": ({"iban": SECRET},)},
        {"headers": [("authorization", SECRET)]},
        {"headers": [(b"authorization", SECRET.encode())]},
        {"headers": {b"cookie": SECRET}},
    ],
    ids=str,
)
@pytest.mark.parametrize("library", [True, False])
def test_secret_is_redacted(seen: Observed, values: dict[str, Any], library: bool) -> None:
    if library:
        logging.getLogger("some.library").warning("said", extra=values)
    else:
        structlog.get_logger().warning("said", **values)
    (line,) = seen.lines
    assert SECRET not in seen.output.decode()
    assert line.keys() >= values.keys()


def test_what_is_logged_is_not_changed(seen: Observed) -> None:
    headers = {"authorization": SECRET, "inner": {"token": SECRET}, "list": [{"token": SECRET}]}
    structlog.get_logger().info("said", headers=headers)
    assert headers == {"authorization": SECRET, "inner": {"token": SECRET}, "list": [{"token": SECRET}]}


def test_what_only_looks_like_a_secret_is_shown(seen: Observed) -> None:
    structlog.get_logger().info("said", tokens=3, author="Ada", password_changed=True)
    (line,) = seen.lines
    assert (line["tokens"], line["author"], line["password_changed"]) == (3, "Ada", True)
