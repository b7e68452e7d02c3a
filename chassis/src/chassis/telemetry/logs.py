"""One JSON line for each event on standard output, also for the records of libraries; colour on a terminal."""

import atexit
import logging
import os
import re
import sys
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from contextvars import ContextVar
from typing import Any, Literal, Protocol

import orjson
import structlog
from opentelemetry import context as otel_context
from opentelemetry.trace import get_current_span
from structlog.typing import EventDict, Processor, WrappedLogger

from ..context import request_context
from ..worker_slot import WorkerSlot
from .levels import LEVELS, make_bound_logger
from .log_writer import MAX_HELD_BYTES, LineWriter
from .plain_values import plain, text
from .redaction import Redactor

LogFormat = Literal["auto", "json", "console"]

LAST_FLUSH_SECONDS = 1.0
log_output: ContextVar[int] = ContextVar("log output", default=1)
"""The file descriptor of `Logs`: standard output. Commands set it to standard error, because they print results."""
# uvicorn's lines at each start and stop repeat the server's, which have more facts. httpx logs each request that it
# sends with the whole URL, including the query.
QUIET = ("uvicorn.error", "httpx")
JSON_OPTIONS = orjson.OPT_UTC_Z | orjson.OPT_PASSTHROUGH_DATACLASS
# DEL and the C1 controls in UTF-8. orjson does not escape them, and some terminals obey them.
CONTROLS = re.compile(rb"\x7f|\xc2[\x80-\x9f]")
DELETE, C1_LEAD = b"\x7f\xc2"  # as numbers: `in` finds these quickly, and raises an exception within CPython for bytes


class Renderer(Protocol):
    """Makes a line of an event."""

    def __call__(self, event: EventDict, *, is_redacted: bool = False) -> bytes | str:
        """`is_redacted` says that the event has no secrets already."""
        ...


class JsonRenderer(Protocol):
    """A `Renderer` whose lines are JSON."""

    def __call__(self, event: EventDict, *, is_redacted: bool = False) -> bytes: ...


class Logs:
    """How records are rendered and where they go; `install` makes it the process's configuration.

    `level` is a standard name such as `INFO`; `set_level` changes it. `redact` names keys whose values are never shown,
    in addition to `SECRET_KEYS`. `processors` are yours: each sees every event, the access lines included, without
    secrets, before it is rendered. Up to `buffer_bytes` of lines are kept while the reader of the output has stopped.
    """

    def __init__(
        self,
        *,
        level: str = "INFO",
        format: LogFormat = "auto",  # noqa: A002 - the setting's name
        redact: Collection[str] = (),
        processors: Collection[Processor] = (),
        buffer_bytes: int = MAX_HELD_BYTES,
        fd: int | None = None,
    ) -> None:
        """`fd` is where lines are written, by default `log_output`."""
        fd = log_output.get() if fd is None else fd
        # The level's owner: when these logs are installed, the root logger.
        self._threshold = logging.Logger(__name__, LEVELS[level.lower()])  # noqa: LOG001 - only for its level
        self.writer: LineWriter = LineWriter(fd, max_held_bytes=buffer_bytes)
        self.writer.on_recovery = _log_dropped
        console = format == "console" or (format == "auto" and os.isatty(fd))
        self.redactor: Redactor = Redactor(redact)
        self._render = _console_renderer(self.redactor) if console else _json_renderer(self.redactor)
        if WorkerSlot.number is not None:
            self._render = _with_worker(self._render, WorkerSlot.number)
        self._processors = [*processors]
        self._takes_json = not console and not processors
        self._is_installed = False
        self._shared: list[Processor] = [
            structlog.contextvars.merge_contextvars,
            add_request_ids,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            *([] if console else [lead_with_essentials]),
            # The renderer redacts too, but after them.
            *([self.redactor] if processors else []),
            *self._processors,
        ]

    @property
    def level(self) -> int:
        """The lowest level that is logged; when installed, that of the root logger of `logging`."""
        return self._threshold.level

    def set_level(self, level: str | int) -> None:
        """Log events of `level` and above from now on: those of structlog and of `logging`, and access lines.

        `level` is a name such as `debug`, in upper or lower case, or a number of `logging`. Raises `ValueError` for an
        unknown name.
        `logging.getLogger().setLevel` does the same.
        """
        number = level if isinstance(level, int) else LEVELS.get(level.lower())
        if number is None:
            raise ValueError(f"invalid log level {level!r}; allowed are {', '.join(LEVELS)}")
        self._threshold.setLevel(number)

    @property
    def has_processors(self) -> bool:
        """Whether there are processors of the service's owner."""
        return bool(self._processors)

    def access_logger(self) -> "AccessLogger":
        """A logger for complete lines: only your processors and the renderer run."""
        return AccessLogger(self.writer, self._processors, self._render, self.redactor, takes_json=self._takes_json)

    def install(self) -> None:
        """Configure structlog, the standard library's `logging`, warnings and uncaught exceptions to log here."""
        structlog.configure(
            processors=[*self._shared, lambda _logger, _method, event: self._render(event)],
            wrapper_class=make_bound_logger(lambda: self._threshold.level),
            context_class=dict,
            logger_factory=lambda *_: self.writer,
            cache_logger_on_first_use=False,
        )
        handler = _Handler(self.writer)
        handler.setFormatter(
            structlog.stdlib.ProcessorFormatter(
                foreign_pre_chain=[structlog.stdlib.add_logger_name, structlog.stdlib.ExtraAdder(), *self._shared],
                processors=[
                    structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                    drop_uvicorn_colour,
                    lambda _logger, _method, event: as_text(self._render(event)),
                ],
            )
        )
        root = logging.getLogger()
        root.handlers = [handler]
        root.setLevel(self.level)
        self._threshold = root
        # Where the application runs under uvicorn, it has configured these two. The access line is ours.
        for name in ("uvicorn", "uvicorn.access"):
            library = logging.getLogger(name)
            library.handlers = []
            library.propagate = name == "uvicorn"
        for name in QUIET:
            logging.getLogger(name).setLevel(max(self.level, logging.WARNING))
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread
        if not self._is_installed:
            self._is_installed = True
            atexit.register(self.writer.flush, LAST_FLUSH_SECONDS)


class AccessLogger:
    """Takes a complete event; a logger of structlog would take each fact as a keyword."""

    def __init__(
        self,
        writer: LineWriter,
        processors: Sequence[Processor],
        render: Renderer,
        redactor: Redactor,
        *,
        takes_json: bool,
    ) -> None:
        """`processors` are structlog's; `render` renders what they return. `takes_json` says that both add nothing."""
        self._writer = writer
        self._takes_json = takes_json
        self._render_json = _json_renderer(redactor)
        self._processors = processors
        self._render = render
        self.redact: Callable[[Mapping[str, Any]], dict[str, Any]] = redactor.redact
        """For facts that others put on a line, since a line without processors is not searched for secrets."""

    def json(self, event: EventDict) -> bytes:
        """An event without secrets as JSON."""
        return self._render_json(event, is_redacted=True)

    def json_line(self, level: str, line: bytes) -> None:
        """Write a complete event that is JSON already."""
        if self._takes_json:
            self._writer.gather(line)
        else:
            self.line(level, orjson.loads(line))

    def line(self, level: str, event: EventDict) -> None:
        """Run the processors on `event` and write it; `level` is the method's name in structlog."""
        if not self._processors:
            self._writer.write(self._render(event, is_redacted=True))
            return
        result: Any = event
        try:
            for processor in self._processors:
                result = processor(self._writer, level, result)
            line = self._render(result)
        except structlog.DropEvent:
            return
        except Exception as error:  # noqa: BLE001 - a processor of the service's owner; the request must not fail of it
            line = self._render({**event, "log_processor_error": repr(error)})
        self._writer.write(line)


def add_request_ids(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put the ids of the current request and span on an event."""
    context = otel_context.get_current()
    request = request_context(context)
    if request is not None:
        event.setdefault("request_id", request.request_id)
    span = get_current_span(context).get_span_context()
    if span.is_valid:
        event.setdefault("trace_id", f"{span.trace_id:032x}")
        event.setdefault("span_id", f"{span.span_id:016x}")
    return event


def _json_renderer(redactor: Redactor) -> "JsonRenderer":
    """One JSON object without a newline; objects that JSON does not have become their fields or their text."""

    def render(event: EventDict, *, is_redacted: bool = False) -> bytes:
        try:
            line = orjson.dumps(event, default=plain, option=JSON_OPTIONS)
            # Only a line with a word such as `token` is searched for its value.
            if not is_redacted and redactor.concerns(line):
                line = orjson.dumps(redactor.redact(event))
        except orjson.JSONEncodeError:
            # Keys that aren't text, lone surrogates, integers over 64 bits, circles, objects that raise.
            line = orjson.dumps(redactor.redact(event))
        return escape_controls(line) if DELETE in line or C1_LEAD in line else line

    return render


def escape_controls(line: bytes) -> bytes:
    """The line with `CONTROLS` as JSON escapes them."""
    return CONTROLS.sub(_escape, line)


def _escape(control: re.Match[bytes]) -> bytes:
    """A control character as JSON escapes it."""
    return b"\\u%04x" % ord(control[0].decode())


def lead_with_essentials(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put timestamp, level and event first, for people who read the lines as they are."""
    essentials = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**essentials, **event}


def drop_uvicorn_colour(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop uvicorn's second copy of the message, which has colour codes."""
    event.pop("color_message", None)
    return event


def _console_renderer(redactor: Redactor) -> Renderer:
    renderer = structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback)

    def render(event: EventDict, *, is_redacted: bool = False) -> str:
        return renderer(None, "", redactor.redact({"timestamp": "", **event}))

    return render


def _with_worker(render: Renderer, number: int) -> Renderer:
    """A renderer whose events say in which worker they happened."""

    def render_with_worker(event: EventDict, *, is_redacted: bool = False) -> bytes | str:
        return render({**event, "worker": number}, is_redacted=is_redacted)

    return render_with_worker


class _Handler(logging.Handler):
    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            try:
                line = self.format(record)
            except Exception as error:  # noqa: BLE001 - of the arguments; what was to be said is still known
                facts = {
                    "msg": text(record.msg),
                    "args": None,
                    "log_error": f"{type(error).__qualname__}: {text(error)}",
                }
                line = self.format(logging.makeLogRecord({**record.__dict__, **facts}))
            self._writer.write(line)
        except Exception:  # noqa: BLE001 - logging must not raise; this is how the standard library reports it
            self.handleError(record)


def as_text(line: bytes | str) -> str:
    """For the standard library's formatter, which warns of a line of bytes."""
    return line.decode() if isinstance(line, bytes) else line


def _log_dropped(count: int) -> None:
    log: Callable[..., Any] = structlog.get_logger().warning
    log("log lines dropped", reason="standard output was not read fast enough", count=count)


def _log_uncaught(error_type: type[BaseException], error: BaseException, traceback: Any) -> None:
    if issubclass(error_type, KeyboardInterrupt):
        sys.__excepthook__(error_type, error, traceback)
        return
    log: Callable[..., Any] = structlog.get_logger().critical
    log("uncaught exception", exc_info=(error_type, error, traceback))


def _log_uncaught_in_thread(hook: threading.ExceptHookArgs) -> None:
    error = hook.exc_value or hook.exc_type()
    name = hook.thread.name if hook.thread else None
    log: Callable[..., Any] = structlog.get_logger().error
    log("uncaught exception in a thread", thread=name, exc_info=(hook.exc_type, error, hook.exc_traceback))
