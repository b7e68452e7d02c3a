"""Threads for blocking code: `def` handlers and `def` checks."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from contextvars import Context, copy_context
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from typing import Any, TypeVar

from starlette.types import Scope

from .problem import Problem

DEFAULT_THREADS = 40
WAIT_SECONDS = 1.0
IDLE_SECONDS = 30.0

Result = TypeVar("Result")


class Threads:
    """A pool of at most `size` threads for functions; for an `App` these are its `def` handlers.

    A function in a thread cannot be cancelled. So its thread stays busy until the function returns, even if the client
    has disconnected or the deadline has passed. Otherwise clients that retry would use more and more threads while a
    dependency hangs. When all threads are busy, at most `size` requests wait, each for at most `wait_seconds`. Further
    requests are shed: a `Problem` of 503 is raised, and `on_shed` is called.

    Functions see the context variables of the calling task. The threads are daemons, so the process can exit while they
    run. Idle threads end after `IDLE_SECONDS`.
    """

    def __init__(
        self, size: int, *, wait_seconds: float = WAIT_SECONDS, on_shed: Callable[[], object] = lambda: None
    ) -> None:
        self.size: int = size
        self.in_use: int = 0
        """The number of functions that are running."""
        self._wait_seconds = wait_seconds
        self._on_shed = on_shed
        self._lock = Lock()
        self._idle: list[_Worker] = []
        self._waiting: deque[_Job] = deque()

    def resize(self, size: int) -> None:
        """Allow more threads, or fewer: those that are in use finish their functions. Called on the event loop."""
        begun: list[tuple[_Job, _Worker | None]] = []
        with self._lock:
            self.size = size
            while self._waiting and self.in_use < size:
                begun.append((self._waiting.popleft(), self._take()))
        for job, worker in begun:
            if not self._hand(job, worker) and not job.future.done():
                job.future.set_exception(all_busy())

    async def run(self, call: Callable[[], Result]) -> Result:
        """Run `call` in a thread, and return its result or raise its exception (see `safe_error`).

        Raises a `Problem` of 503 if no thread becomes free in time.
        """
        loop = asyncio.get_running_loop()
        job = _Job(call, copy_context(), loop)
        if self._begin(job):
            result: Result = await job.future
            return result
        timer = loop.call_later(self._wait_seconds, self._give_up, job)
        try:
            result = await job.future
        finally:
            timer.cancel()
            self._withdraw(job)
        return result

    def next_job(self, worker: "_Worker") -> "_Job | None":
        """The job that has waited longest, for a worker that has finished its job; None if no job waits."""
        with self._lock:
            if self._waiting and self.in_use <= self.size:
                return self._waiting.popleft()
            self.in_use -= 1
            self._idle.append(worker)
            return None

    def may_end(self, worker: "_Worker") -> bool:
        """Whether an idle worker may end. False if it has been given a job meanwhile."""
        with self._lock:
            if worker in self._idle:
                self._idle.remove(worker)
                return True
            return False

    def _begin(self, job: "_Job") -> bool:
        """Run `job` and return True, or queue it and return False. Raises a `Problem` of 503 if the queue is full."""
        with self._lock:
            if self.in_use >= self.size:
                if len(self._waiting) < self.size:
                    self._waiting.append(job)
                    return False
                self._on_shed()
                raise all_busy()
            worker = self._take()
        if not self._hand(job, worker):
            raise all_busy()
        return True

    def _take(self) -> "_Worker | None":
        """An idle worker for a job that begins; None for a new one. The lock is held."""
        self.in_use += 1
        return self._idle.pop() if self._idle else None

    def _hand(self, job: "_Job", worker: "_Worker | None") -> bool:
        """Give a job to a worker. Returns False if the system has no more threads."""
        if worker is None:
            worker = _Worker(self)
            try:
                Thread(target=worker.run, name="handler", daemon=True).start()
            except RuntimeError:
                with self._lock:
                    self.in_use -= 1
                self._on_shed()
                return False
        worker.jobs.put(job)
        return True

    def _withdraw(self, job: "_Job") -> bool:
        """Remove `job` from the queue. Returns whether it was still waiting."""
        with self._lock:
            if job in self._waiting:
                self._waiting.remove(job)
                return True
            return False

    def _give_up(self, job: "_Job") -> None:
        if self._withdraw(job) and not job.future.done():
            self._on_shed()
            job.future.set_exception(all_busy())


class _Job:
    """A function, and the future of the task that waits for it."""

    __slots__ = ("_call", "_context", "_error", "_loop", "_result", "future")

    def __init__(self, call: Callable[[], object], context: Context, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[Any] = loop.create_future()
        self._call = call
        self._context = context
        self._loop = loop
        self._result: object = None
        self._error: Exception | None = None

    def run(self) -> None:
        """Call the function in a worker's thread, unless its future is done already."""
        if self.future.done():
            return
        try:
            self._result = self._context.run(self._call)
        except BaseException as error:  # noqa: BLE001 - the waiting task raises it
            self._error = safe_error(error)

    def report(self) -> None:
        """Pass the result to the event loop."""
        with suppress(RuntimeError):  # the loop is closed, so no task waits
            self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        if self.future.done():  # the client has disconnected, or the deadline has passed
            return
        if self._error is None:
            self.future.set_result(self._result)
        else:
            self.future.set_exception(self._error)


class _Worker:
    """A thread that runs jobs, one after the other."""

    def __init__(self, threads: Threads) -> None:
        self.jobs: SimpleQueue[_Job] = SimpleQueue()
        self._threads = threads

    def run(self) -> None:
        while True:
            try:
                job: _Job | None = self.jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                if self._threads.may_end(self):
                    return
                continue
            while job is not None:
                job.run()
                ended = job
                # The thread becomes free before it reports, so that the task that gets the result finds it free.
                job = self._threads.next_job(self)
                ended.report()
                del ended


def all_busy() -> Problem:
    """503 (RFC 9110, section 15.6.4): the client may retry, preferably on another instance."""
    return Problem(503, "All threads of the service are busy; retry later.", headers={"retry-after": "1"})


def safe_error(error: BaseException) -> Exception:
    """`error`, or a `RuntimeError` caused by it if a task must not raise it.

    A future cannot raise StopIteration. Exceptions that do not derive from `Exception`, such as SystemExit, would end
    the event loop or look like a cancellation.
    """
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    raised = RuntimeError(f"{type(error).__qualname__} was raised")
    raised.__cause__ = error
    return raised


def in_thread(call: Callable[[], Result], *, name: str) -> Future[Result]:
    """Run `call` in a daemon thread of its own, outside any pool; see `safe_error`."""
    result: Future[Result] = Future()
    context = copy_context()

    def run() -> None:
        try:
            result.set_result(context.run(call))
        except BaseException as error:  # noqa: BLE001 - the waiting task raises it
            result.set_exception(safe_error(error))

    result.set_running_or_notify_cancel()
    Thread(target=run, name=name, daemon=True).start()
    return result


_without_app = Threads(DEFAULT_THREADS)


def threads_of(scope: Scope) -> Threads:
    """The threads of the `App` that serves a request. Handlers outside an `App` share a default pool."""
    threads = getattr(scope.get("app"), "threads", None)
    return threads if isinstance(threads, Threads) else _without_app
