"""Faults of a system: of one replica of three, and of all."""

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from gateway import Replica, System

Fault = AbstractContextManager[None]
LATENCY_SECONDS = 1.0
ERROR_SHARE = 0.3
RESET_SHARE = 0.3
FILLING_SECONDS = 0.2
OVERLOAD_LATENCY_SECONDS = 0.4


@contextmanager
def killed(replica: Replica) -> Iterator[None]:
    """It ends without a word, and is back later."""
    replica.service.process.kill()
    replica.service.process.wait()
    yield
    replica.replace()


@contextmanager
def stopped(replica: Replica) -> Iterator[None]:
    """It hangs: the system takes connections for it, and nobody reads."""
    process = replica.service.process
    process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.send_signal(signal.SIGCONT)


@contextmanager
def queue_full(replica: Replica) -> Iterator[None]:
    """It hangs, and takes no more connections."""
    with ExitStack() as stack, stopped(replica):
        fill_queue(stack, replica.ports.service)
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
def rolled(replica: Replica) -> Iterator[None]:
    """It is replaced in order."""
    replica.service.process.send_signal(signal.SIGTERM)
    replica.service.process.wait()
    replica.replace()
    yield


@contextmanager
def injected(replica: Replica, **fault: float) -> Iterator[None]:
    """A fault is injected into its requests."""
    before = replica.service.metric("injected_faults_total")
    replica.inject(**fault)
    yield
    replica.inject()
    assert replica.service.metric("injected_faults_total") > before, "no request has met the fault"


def slow(replica: Replica) -> Fault:
    return injected(replica, latency_seconds=LATENCY_SECONDS)


def failing(replica: Replica) -> Fault:
    return injected(replica, share=ERROR_SHARE, status=500)


def resetting(replica: Replica) -> Fault:
    return injected(replica, share=RESET_SHARE, abort=True)


ONE_OF_THREE: dict[str, Callable[[Replica], Fault]] = {
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


OF_ALL: dict[str, Callable[[System], Fault]] = {"overload": overloaded, "restart of everything": restarted}
