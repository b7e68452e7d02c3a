"""Starts a service with several workers: the composition of its processes."""

import asyncio
import gc
import signal
import threading
from collections.abc import Callable

import structlog
from structlog.typing import FilteringBoundLogger

from ..app import App
from ..http.errors import ListenError
from ..server import END_SECONDS, loop_factory
from ..settings import ChassisSettings
from ..telemetry.log_writer import LineWriter
from ..telemetry.logs import Logs
from ..telemetry.shared_output import SharedOutput
from .supervisor import Supervisor
from .worker import run_worker
from .zygote import Assignment, ZygoteHandle, fork_zygote

log: FilteringBoundLogger = structlog.get_logger()


def run_workers(create_app: Callable[[ChassisSettings], App], settings: ChassisSettings, count: int) -> int:
    """Serve with several workers. Returns the exit status, in this process and in each worker.

    The modules of the service are imported already, and the processes share their memory. Their objects are frozen:
    the garbage collector does not visit them, which would copy their pages.
    """
    # SIGHUP ends a process that has no handler. The supervisor replaces this one while it can replace workers.
    signal.signal(signal.SIGHUP, lambda *_: None)
    LineWriter.shared_output = SharedOutput()
    threads = [thread.name for thread in threading.enumerate() if thread is not threading.current_thread()]
    gc.freeze()
    forked = fork_zygote(settings.shutdown_seconds + END_SECONDS)
    if isinstance(forked, Assignment):
        return run_worker(forked, create_app, type(settings))
    gc.enable()
    return supervise(settings, count, forked, threads)


def supervise(settings: ChassisSettings, count: int, zygote: ZygoteHandle, threads: list[str]) -> int:
    """Supervise the workers until a signal arrives. `threads` ran when they were forked, and do not run in them."""
    logs = Logs(
        level=settings.log_level,
        format=settings.log_format,
        redact=settings.log_redact,
        buffer_bytes=settings.log_buffer_bytes,
    )
    logs.install()

    if threads:
        log.warning("threads were started by an import; they do not run in the workers", threads=threads)

    async def serve() -> int:
        return await Supervisor(settings, count, zygote, logs).run()

    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            return runner.run(serve())
    except ListenError as error:
        log.error(
            "cannot listen", host=settings.host, port=settings.port, admin_port=settings.admin_port, error=str(error)
        )
        return 1
    except Exception:
        log.exception("service failed to start or stop")
        return 1
    finally:
        zygote.kill_group()
        zygote.socket.close()
        logs.writer.flush()
