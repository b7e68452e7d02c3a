"""Log lines: one JSON object each, whoever logs and whatever is in it."""

import logging
import math
import os
import pty
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog
from structlog.typing import EventDict

from chassis.telemetry.logs import Logs

from .support.service import Line, Observed, observed


@pytest.fixture
def seen() -> Iterator[Observed]:
    with observed() as seen:
        yield seen


def only(seen: Observed) -> Line:
    """The only line."""
    (line,) = seen.lines
    return line


def test_record_of_structlog_is_a_line(seen: Observed) -> None:
    structlog.get_logger().info("order confirmed", number=7, price=1.5, tags=["a"], nothing=None)
    line = only(seen)
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo is UTC
    assert line == {
        "event": "order confirmed",
        "level": "info",
        "number": 7,
        "price": 1.5,
        "tags": ["a"],
        "nothing": None,
    }


def test_record_of_the_standard_library_is_a_line_of_the_same_form(seen: Observed) -> None:
    logging.getLogger("some.library").warning("%s of %d", "one", 2, extra={"fact": 3})
    line = only(seen)
    assert datetime.fromisoformat(line.pop("timestamp")).tzinfo is UTC
    assert line == {"event": "one of 2", "level": "warning", "logger": "some.library", "fact": 3}


def test_warning_is_a_line(seen: Observed) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    line = only(seen)
    assert (line["level"], line["logger"]) == ("warning", "py.warnings")
    assert "DeprecationWarning: old ways" in line["event"]


def test_record_of_uvicorn_is_a_line(seen: Observed) -> None:
    logging.getLogger("uvicorn.error").warning("Cancel %d tasks", 2, extra={"color_message": "Cancel \x1b[1m%d"})
    line = only(seen)
    assert (line["logger"], line["level"], line["event"]) == ("uvicorn.error", "warning", "Cancel 2 tasks")
    assert "color_message" not in line


def test_record_of_the_standard_library_costs_no_warning(seen: Observed) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        logging.getLogger("some.library").error("x")
    assert caught == []


@pytest.mark.parametrize("library", [True, False])
def test_exception_is_in_the_line(seen: Observed, library: bool) -> None:
    log: Any = logging.getLogger("some.library") if library else structlog.get_logger()
    try:
        raise RuntimeError("broken\nin two")
    except RuntimeError:
        log.exception("failed")
    line = only(seen)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback (most recent call last):")
    assert line["exception"].endswith("RuntimeError: broken\nin two")


def test_level_is_respected() -> None:
    with observed(level="WARNING") as seen:
        structlog.get_logger().info("quiet")
        logging.getLogger("some.library").info("quiet")
        structlog.get_logger().warning("loud")
        logging.getLogger("some.library").warning("loud")
        assert [line["event"] for line in seen.lines] == ["loud", "loud"]


class Unprintable:
    """Fails to be text."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


def circle() -> dict[str, Any]:
    """A dictionary that contains itself."""
    found: dict[str, Any] = {}
    found["self"] = found
    return found


def well() -> dict[str, Any]:
    """A dictionary deeper than anybody's stack."""
    found: dict[str, Any] = {}
    for _ in range(5000):
        found = {"down": found}
    return found


@pytest.mark.parametrize(
    "value",
    [
        object(),
        b"\xff\x00",
        "line\nbreak\r\u2028",
        "\ud800 lone",
        2**70,
        math.nan,
        {1: "a", None: "b", (1, 2): "c"},
        {"set": {1}},
        ValueError("x"),
        Unprintable(),
        {"inner": Unprintable()},
        pytest.param(circle(), id="circle"),
        pytest.param(well(), id="well"),
        [[[{"deep": object()}]]],
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("library", [True, False])
def test_whatever_is_logged_stays_one_line(seen: Observed, value: Any, library: bool) -> None:
    if library:
        logging.getLogger("some.library").warning("said", extra={"value": value})
    else:
        structlog.get_logger().warning("said", value=value)
    line = only(seen)
    assert (line["event"], line["level"]) == ("said", "warning")
    assert "value" in line
    assert seen.output.count(b"\n") == 1


def test_control_characters_cannot_forge_a_line(seen: Observed) -> None:
    structlog.get_logger().info('x"}\n{"event":"forged"}\x1b[2J')
    assert only(seen)["event"] == 'x"}\n{"event":"forged"}\x1b[2J'
    assert b"\x1b" not in seen.output


def test_processors_of_yours_see_every_event() -> None:
    def add_region(_logger: object, _method: str, event: EventDict) -> EventDict:
        return {**event, "region": "north"}

    with observed(processors=[add_region]) as seen:
        structlog.get_logger().info("one")
        logging.getLogger("some.library").warning("two")
        seen.telemetry.logs.access_logger().line("info", {"event": "request"})
        assert [line["region"] for line in seen.lines] == ["north"] * 3


def test_context_variables_of_structlog_are_on_the_line(seen: Observed) -> None:
    with structlog.contextvars.bound_contextvars(tenant="acme"):
        structlog.get_logger().info("inside")
    structlog.get_logger().info("outside")
    assert [line.get("tenant") for line in seen.lines] == ["acme", None]


def test_console_is_for_people() -> None:
    with observed(format="console") as seen:
        structlog.get_logger().info("order confirmed", number=7)
        line = {"timestamp": datetime.now(UTC), "level": "info", "event": "request", "status": 200}
        seen.telemetry.logs.access_logger().line("info", line)
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            logging.getLogger("some.library").exception("failed")
        text = seen.output.decode()
    assert "order confirmed" in text
    assert "status" in text
    assert "RuntimeError: broken" in text
    assert not text.startswith("{")


@pytest.mark.parametrize(("terminal", "json"), [(True, False), (False, True)])
def test_format_is_found_by_what_reads_it(terminal: bool, json: bool) -> None:
    reader, writer = pty.openpty() if terminal else os.pipe()
    logs = Logs(format="auto", fd=writer)
    logs.access_logger().line("info", {"event": "request", "level": "info"})
    logs.writer.flush()
    assert os.read(reader, 1000).startswith(b"{") is json
    os.close(reader)
    os.close(writer)


def test_unknown_level_is_refused() -> None:
    with pytest.raises(KeyError):
        Logs(level="LOUD")
