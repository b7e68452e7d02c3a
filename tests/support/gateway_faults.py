"""Faults of the system: to one replica of three, and to all."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from gateway import Replica, System

Fault = Callable[[System], AbstractContextManager[None]]
LATENCY_SECONDS = 1.0
ERROR_SHARE = 0.3
RESET_SHARE = 0.3
FILLING_SECONDS = 0.2
OVERLOAD_LATENCY_SECONDS = 0.4


def faulty(system: System) -> Replica:
    """The replica that gets the faults."""
    return system.replicas["stock"][0]


@contextmanager
def killed(system: System) -> Iterator[None]:
    """It ends without a word, and is back later."""
    replica = faulty(system)
    replica.service.process.kill()
    replica.service.process.wait()
    yield
    replica.replace()


@contextmanager
def stopped(system: System) -> Iterator[None]:
    """It hangs: the system takes connections for it, and nobody reads."""
    process = faulty(system).service.process
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@contextmanager
def queue_full(system: System) -> Iterator[None]:
    """It hangs, and takes no more connections."""
    with ExitStack() as stack, stopped(system):
        fill_queue(stack, faulty(system).ports.service)
        yield


def fill_queue(stack: ExitStack, port: int) -> None:
    """Connect until a connection is not accepted any more."""
    while True:
        connection = stack.enter_context(socket.socket())
        connection.settimeout(FILLING_SECONDS)
        try:
            connection.connect(("127.0.0.1", port))
        except TimeoutError:
            return


@contextmanager
def rolled(system: System) -> Iterator[None]:
    """It is replaced in order."""
    replica = faulty(system)
    replica.service.process.send_signal(signal.SIGTERM)
    replica.service.process.wait()
    replica.replace()
    yield


@contextmanager
def injected(system: System, **fault: float) -> Iterator[None]:
    """A fault is injected into it."""
    faulty(system).inject(**fault)
    yield
    faulty(system).inject()


def slow(system: System) -> AbstractContextManager[None]:
    return injected(system, latency_seconds=LATENCY_SECONDS)


def failing(system: System) -> AbstractContextManager[None]:
    return injected(system, share=ERROR_SHARE, status=500)


def resetting(system: System) -> AbstractContextManager[None]:
    return injected(system, share=RESET_SHARE, abort=True)


ONE_OF_THREE: dict[str, Fault] = {
    "SIGKILL": killed,
    "SIGSTOP, SIGCONT": stopped,
    "SIGTERM, replaced": rolled,
    "1 s latency": slow,
    "30 % errors": failing,
    "30 % resets": resetting,
    "full accept queue": queue_full,
}


@contextmanager
def overloaded(system: System) -> Iterator[None]:
    """All replicas of the stock can do less than they are asked for."""
    for replica in system.replicas["stock"]:
        replica.inject(latency_seconds=OVERLOAD_LATENCY_SECONDS)
    yield
    for replica in system.replicas["stock"]:
        replica.inject()


@contextmanager
def restarted(system: System) -> Iterator[None]:
    """Everything ends, and is started again."""
    system.restart_everything()
    yield


OF_ALL: dict[str, Fault] = {"overload": overloaded, "restart of everything": restarted}
