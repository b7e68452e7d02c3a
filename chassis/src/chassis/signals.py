"""The signals that stop a service, and what a forked child inherits of them."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signals(on_first: Callable[[int], object]) -> Iterator[None]:
    """Call `on_first` with the number of the first signal; a second one ends the process at once.

    `on_first` runs between any two instructions of the main thread, so it must not take a lock.
    """
    received: list[int] = []

    # signal.signal instead of the loop's handlers, because it also works while blocking code holds the loop.
    def handle(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        if len(received) > 1:
            # Without a flush: a full pipe on standard output may be why the first signal was not enough.
            os._exit(128 + number)
        on_first(number)

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    _handlers.append(handle)
    try:
        yield
    finally:
        _handlers.remove(handle)
        for number, handler in before.items():
            signal.signal(number, handler)


def _restore_defaults_in_child() -> None:
    """A signal ends a forked child as it would end any process, also while native code runs in it."""
    for number in SIGNALS:
        if signal.getsignal(number) in _handlers:
            signal.signal(number, signal.SIG_DFL)
            signal.set_wakeup_fd(-1)  # or the event loop of the parent would learn of the child's signals


_handlers: list[Callable[[int, FrameType | None], None]] = []
if sys.platform != "win32":
    os.register_at_fork(after_in_child=_restore_defaults_in_child)
