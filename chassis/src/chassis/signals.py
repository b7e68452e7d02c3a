"""The signals that stop a service, and their reset in forked child processes."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


def end_at_once(number: int) -> None:
    """End the process, as a second signal asks for."""
    # Without a flush: a blocked standard output may be the reason why the shutdown hangs.
    os._exit(128 + number)


@contextmanager
def stop_signals(on_first: Callable[[int], object], on_next: Callable[[int], object] = end_at_once) -> Iterator[None]:
    """Call `on_first` with the number of the first signal, and `on_next` with those of all others.

    Both run between any two instructions of the main thread, so they must not acquire a lock.
    """
    received: list[int] = []

    # signal.signal and not the loop's handlers, because it also works while code blocks the loop.
    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        (on_first if len(received) == 1 else on_next)(number)

    previous_handlers = {number: signal.signal(number, handle) for number in SIGNALS}
    _handlers.append(handle)
    try:
        yield
    finally:
        _handlers.remove(handle)
        for number, handler in previous_handlers.items():
            signal.signal(number, handler)


def _restore_defaults_in_child() -> None:
    """Restore the default action, so that a signal ends a forked child, even while native code runs in it."""
    for number in SIGNALS:
        if signal.getsignal(number) in _handlers:
            signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)  # otherwise the parent's event loop would receive the child's signals


_handlers: list[Callable[[int, FrameType | None], None]] = []
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_restore_defaults_in_child)
