"""One JSON line for each event on standard output, also for the records of libraries; colour on a terminal."""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, Literal

import orjson
import structlog
from opentelemetry import context as otel_context
from opentelemetry.trace import get_current_span
from structlog.typing import EventDict, Processor, WrappedLogger

from ..context import request_context
from .log_writer import MAX_HELD_BYTES, LineWriter
from .redaction import Redactor, text

LogFormat = Literal["auto", "json", "console"]

LAST_FLUSH_SECONDS = 1.0
SECRET_KEYS = frozenset({"authorization", "proxy-authorization", "cookie", "set-cookie", "password", "secret", "token"})


class Logs:
    """How records are rendered and where they go; `install` makes it the process's configuration.

    `level` is a standard name such as `INFO`. `redact` names keys whose values are never shown,
    in addition to `SECRET_KEYS`. `processors` are yours: each sees every event, the access lines included,
    before it is rendered. Up to `buffer_bytes` of lines are kept while the reader of the output has stopped.
    """

    def __init__(
        self,
        *,
        level: str = "INFO",
        format: LogFormat = "auto",  # noqa: A002 - the setting's name
        redact: Collection[str] = (),
        processors: Collection[Processor] = (),
        buffer_bytes: int = MAX_HELD_BYTES,
        fd: int = 1,
    ) -> None:
        self.level: int = logging.getLevelNamesMapping()[level]
        self.writer: LineWriter = LineWriter(fd, max_held_bytes=buffer_bytes)
        self.writer.on_recovery = _log_dropped
        console = format == "console" or (format == "auto" and os.isatty(fd))
        self._render = _console_renderer() if console else render_json
        self._processors = [*processors]
        self._is_installed = False
        # The console renderer does both by itself.
        for_json: list[Processor] = [] if console else [structlog.processors.format_exc_info, lead_with_essentials]
        self._shared: list[Processor] = [
            structlog.contextvars.merge_contextvars,
            add_request_ids,
            structlog.stdlib.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *for_json,
            Redactor(SECRET_KEYS | set(redact)),
            *self._processors,
        ]

    @property
    def has_processors(self) -> bool:
        """Whether there are processors of the service's owner."""
        return bool(self._processors)

    def access_logger(self) -> "AccessLogger":
        """A logger for complete lines: only your processors and the renderer run."""
        return AccessLogger(self.writer, [*self._processors, self._render])

    def install(self) -> None:
        """Configure structlog, the standard library's `logging`, warnings and uncaught exceptions to log here."""
        structlog.configure(
            processors=[*self._shared, self._render],
            wrapper_class=structlog.make_filtering_bound_logger(self.level),
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
                    as_text(self._render),
                ],
            )
        )
        root = logging.getLogger()
        root.handlers = [handler]
        root.setLevel(self.level)
        # Where the application runs under uvicorn, it has configured these two. The access line is ours.
        for name in ("uvicorn", "uvicorn.access"):
            library = logging.getLogger(name)
            library.handlers = []
            library.propagate = name == "uvicorn"
        # uvicorn's lines at each start and stop repeat the server's, which have more facts.
        # httpx logs each request that it sends with the whole URL, including the query.
        for name in ("uvicorn.error", "httpx"):
            logging.getLogger(name).setLevel(max(self.level, logging.WARNING))
        logging.captureWarnings(True)
        sys.excepthook = _log_uncaught
        threading.excepthook = _log_uncaught_in_thread
        if not self._is_installed:
            self._is_installed = True
            atexit.register(self.writer.flush, LAST_FLUSH_SECONDS)


class AccessLogger:
    """Takes a finished event instead of a dozen keyword arguments, as a logger of structlog would."""

    def __init__(self, writer: LineWriter, processors: Sequence[Processor]) -> None:
        """`processors` are structlog's; the last one renders the line."""
        self._writer = writer
        self._processors = processors

    def line(self, level: str, event: EventDict) -> None:
        """Run the processors on `event` and write it; `level` is the method's name in structlog."""
        result: Any = event
        try:
            for processor in self._processors:
                result = processor(self._writer, level, result)
        except structlog.DropEvent:
            return
        except Exception as error:  # noqa: BLE001 - a processor of the service's owner; the request must not fail of it
            result = render_json(self._writer, level, {**event, "log_processor_error": repr(error)})
        self._writer.write(result)


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


def render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> bytes:
    """One JSON object without a newline; values that JSON does not have become their text."""
    try:
        return orjson.dumps(event, default=text, option=orjson.OPT_UTC_Z)
    except orjson.JSONEncodeError:
        # Keys that aren't text, lone surrogates, integers over 64 bits, circles: still one line, and readable.
        return orjson.dumps({text(key): text(value) for key, value in event.items()})


def lead_with_essentials(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Put timestamp, level and event first, for people who read the lines as they are."""
    essentials = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return {**essentials, **event}


def drop_uvicorn_colour(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop uvicorn's second copy of the message, which has colour codes."""
    event.pop("color_message", None)
    return event


def as_text(render: Processor) -> Processor:
    """`render` for the standard library's formatter, which warns of a line of bytes."""

    def render_text(logger: WrappedLogger, method: str, event: EventDict) -> str:
        line = render(logger, method, event)
        return line.decode() if isinstance(line, bytes) else str(line)

    return render_text


def _console_renderer() -> Processor:
    renderer = structlog.dev.ConsoleRenderer(colors=True, exception_formatter=structlog.dev.plain_traceback)

    def render_console(logger: WrappedLogger, method: str, event: EventDict) -> str:
        moment = event.get("timestamp", "")
        if isinstance(moment, datetime):
            moment = moment.isoformat().replace("+00:00", "Z")
        return renderer(logger, method, {**event, "timestamp": moment})

    return render_console


class _Handler(logging.Handler):
    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._writer.write(self.format(record))
        except Exception:  # noqa: BLE001 - logging must not raise; this is how the standard library reports it
            self.handleError(record)


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
