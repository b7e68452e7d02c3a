"""Runs commands beside a server for development, and hands signals on to them."""

import os
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import FrameType


class _StoppedError(BaseException):
    """A signal has stopped the program while no command ran."""


class Launcher:
    """Runs commands one after the other, and hands signals on, until one of them has stopped it."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._signal: signal.Signals | None = None
        # A terminal sends its signals to all processes of its foreground group, so they are not sent again. The child
        # is in that group, too: otherwise it could not read from the terminal, as a debugger does.
        self._in_terminal = _has_terminal()

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Handle signals inside of this block."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
        previous = {number: signal.signal(number, self._handle) for number in numbers}
        try:
            yield
        except _StoppedError:
            pass
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._signal = signal.Signals(number)
        if self._child is None:
            raise _StoppedError
        if number == signal.SIGTERM or not self._in_terminal:
            self._child.send_signal(number)

    def run(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Run a command, and return its exit status, as a shell does. Raises `OSError` if it cannot be started."""
        if self._signal is not None:
            raise _StoppedError
        try:
            self._child = subprocess.Popen(  # noqa: S603 - the command of the person who calls
                command, env=environment, process_group=None if self._in_terminal else 0
            )
        except OSError as error:
            raise ChildProcessError(f"{command[0]} cannot be started: {error.strerror}") from error
        status = self._child.wait()
        return status if status >= 0 else 128 - status

    @property
    def status(self) -> int:
        """The exit status if a signal has stopped the program."""
        return 128 + self._signal if self._signal is not None else 1


def _has_terminal() -> bool:
    """Whether this process belongs to the foreground group of its terminal."""
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False
