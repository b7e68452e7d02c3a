"""Log lines: one JSON object each, whoever logs and whatever is in it."""

import logging
import math
import os
import pty
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

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


class Colour(Enum):
    RED = "red"


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


class Proxy:
    """Fails even to tell its class, as a proxy of a framework does outside of a request."""

    @property
    def __class__(self) -> type:
        raise RuntimeError("outside of a request")

    @__class__.setter
    def __class__(self, value: type) -> None: ...


class Broken(Mapping[str, str]):
    """A mapping that cannot be read."""

    def __getitem__(self, key: str) -> str:
        raise OSError("gone")

    def __iter__(self) -> Iterator[str]:
        raise OSError("gone")

    def __len__(self) -> int:
        raise OSError("gone")


class BrokenText(str):
    """Text that fails to be text."""

    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = encode = __str__  # type: ignore[assignment]


@dataclass
class Node:
    """Knows its parent, and is known by it."""

    parent: "Node | None" = None
    children: list["Node"] = field(default_factory=list)


def tree() -> Node:
    """A tree with many ways through it."""
    root = Node()
    for _ in range(8):
        child = Node(root)
        child.children = [Node(child) for _ in range(8)]
        root.children.append(child)
    return root


VALUES: dict[str, Any] = {
    "object": object(),
    "bytes": b"\xff\x00",
    "line breaks": "line\nbreak\r\u2028",
    "lone surrogate": "\ud800 lone",
    "surrogate inside": ["\ud800", {"\udfff": 1}],
    "big integer": 2**70,
    "integer too long for text": 10**5000,
    "not a number": math.nan,
    "infinity": -math.inf,
    "other keys": {1: "a", None: "b", (1, 2): "c", 1.5: "d", False: "e", b"f": "f", Unprintable(): "g"},
    "set": {"set": {1}},
    "exception": ValueError("x"),
    "exception without text": RuntimeError(Unprintable()),
    "unprintable": Unprintable(),
    "unprintable inside": {"inner": [Unprintable()]},
    "proxy": Proxy,
    "broken mapping": Broken(),
    "broken text": BrokenText("x"),
    "circle": circle(),
    "well": well(),
    "tree": tree(),
    "deep": [[[{"deep": object()}]]],
    "moments": [
        datetime.now(UTC),
        date.today(),
        time(1, 2, tzinfo=UTC),
        timedelta(1),
        datetime.now(ZoneInfo("Asia/Tokyo")),
    ],
    "enumerations": [Colour.RED, {"colour": Colour.RED}],
    "decimal": Decimal("1.5"),
    "generator": (number for number in range(3)),
    "range": range(10**12),
    "class": Node,
    "function": circle,
    "nul": "a\x00b",
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("library", [True, False])
@pytest.mark.parametrize("note", ["", "a token"])  # with such a word, the line is searched for secrets
def test_whatever_is_logged_stays_one_line(seen: Observed, name: str, library: bool, note: str) -> None:
    say(library, name, note)
    line = only(seen)
    assert (line["event"], line["level"]) == ("said", "warning")
    assert "value" in line
    assert seen.output.count(b"\n") == 1


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("library", [True, False])
def test_whatever_is_logged_is_shown_on_the_console(name: str, library: bool) -> None:
    with observed(format="console") as seen:
        say(library, name, "")
        assert b"said" in seen.output


def say(library: bool, name: str, note: str) -> None:
    # A proxy must not outlive its test: others look at all objects there are.
    value = [Proxy()] if name == "proxy" else VALUES[name]
    if library:
        logging.getLogger("some.library").warning("said", extra={"value": value, "note": note})
    else:
        structlog.get_logger().warning("said", value=value, note=note)


@pytest.mark.parametrize("form", ["json", "console"])
def test_strange_events_and_exceptions_are_logged(form: str) -> None:
    log: Any = structlog.get_logger()
    with observed(format=form) as seen:
        for event in ("\ud800", Unprintable(), b"x", 7, None, {"a": Unprintable()}, BrokenText("x")):
            log.info(event)
        for exc_info in (True, False, None, "x", RuntimeError("\ud800"), RuntimeError(Unprintable())):
            log.info("said", exc_info=exc_info)
        assert len(seen.output.splitlines()) >= 13


@pytest.mark.parametrize("form", ["json", "console"])
def test_library_whose_arguments_fail_has_its_line(form: str) -> None:
    with observed(format=form) as seen:
        logging.getLogger("some.library").warning("said %s to %s", Unprintable(), "somebody")
        logging.getLogger("some.library").warning("said %d", "x")
        for part in (b"said %s to %s", b"said %d", b"RuntimeError", b"some.library"):
            assert part in seen.output


def test_value_that_json_lacks_does_not_change_the_others(seen: Observed) -> None:
    structlog.get_logger().info(
        "said", big=2**70, number=7, order={"lines": [1, None, 1.5]}, when=datetime(2026, 1, 2, tzinfo=UTC)
    )
    line = only(seen)
    assert (line["big"], line["number"], line["order"]) == (str(2**70), 7, {"lines": [1, None, 1.5]})
    assert line["when"] == "2026-01-02T00:00:00Z"


LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("way", ["set_level", "logging"])
def test_level_can_change_at_run_time(level: str, way: str) -> None:
    with observed(level="WARNING") as seen:
        bound = structlog.get_logger().bind(kind="bound")
        if way == "logging":
            logging.getLogger().setLevel(level)
        else:
            seen.telemetry.logs.set_level(level.lower())
        for log in (bound, structlog.get_logger(), logging.getLogger("some.library")):
            for name in LEVELS:
                getattr(log, name.lower())(name)
                log.log(logging.getLevelNamesMapping()[name], name)
        expected = [name for name in LEVELS[LEVELS.index(level) :] for _ in range(2)] * 3
        assert [line["event"] for line in seen.lines] == expected
        assert bound.get_effective_level() == logging.getLevelNamesMapping()[level]
        assert bound.is_enabled_for(logging.INFO) is (level in ("DEBUG", "INFO"))


async def test_level_holds_for_asynchronous_calls() -> None:
    with observed() as seen:
        log = structlog.get_logger()
        seen.telemetry.logs.set_level("ERROR")
        await log.ainfo("quiet")
        await log.alog(logging.INFO, "quiet")
        await log.aerror("loud")
        await log.alog(logging.ERROR, "loud")
        assert [line["event"] for line in seen.lines] == ["loud", "loud"]


def test_level_that_is_unknown_is_named() -> None:
    with observed() as seen, pytest.raises(ValueError, match="invalid log level 'loud'; allowed are critical"):
        seen.telemetry.logs.set_level("loud")


def test_call_site_of_a_line_is_the_code_that_logs() -> None:
    with observed(processors=[structlog.processors.CallsiteParameterAdder()]) as seen:
        structlog.get_logger().info("said")
        assert only(seen)["module"] == "test_logs"


def test_control_characters_cannot_forge_a_line(seen: Observed) -> None:
    structlog.get_logger().info('x"}\n{"event":"forged"}\x1b[2J')
    assert only(seen)["event"] == 'x"}\n{"event":"forged"}\x1b[2J'
    assert b"\x1b" not in seen.output


def test_control_characters_beyond_ascii_are_escaped(seen: Observed) -> None:
    text = "\x7f\x80\x9b31m\x9f £é€"
    structlog.get_logger().info(text, token=f"secret{text}", **{text: text})
    (line,) = seen.lines
    assert (line["event"], line[text]) == (text, text)
    assert not re.search(r"[\x7f-\x9f]", seen.output.decode())
    assert "£é€" in seen.output.decode()


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


def test_unknown_level_is_rejected() -> None:
    with pytest.raises(KeyError):
        Logs(level="LOUD")
