"""Runs a service in the foreground, says where it answers, and makes Ctrl-C its own affair.

On a terminal Ctrl-C reaches every process of the foreground group: make would die of it and report an
error although the service ended in order. So the service gets a group of its own, put in front as a
shell does with a job; signals that reach this process are passed on.
"""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

PUBLIC = {"orders": "the example", "docs": "its handlers, to read and to try"}
ADMIN = {
    "healthz": "is it alive?",
    "readyz": "is it ready, and why?",
    "metrics": "what it counts, for Prometheus",
    "info": "what is running",
}


def main(command: list[str]) -> int:
    """Run `command` until it ends or a signal ends it; returns its exit status."""
    port = int(os.environ.get("APP_PORT") or 8000)
    admin_port = int(os.environ.get("APP_ADMIN_PORT") or port)
    for wanted in {port, admin_port}:
        if in_use(wanted):
            print(f"error: port {wanted} is in use; choose another, such as: make run APP_PORT={wanted + 1}")
            return 1
    service = subprocess.Popen(command, process_group=0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: service.send_signal(number))
    with_terminal = give_terminal(service.pid)
    try:
        if answers(f"http://127.0.0.1:{admin_port}/healthz", service):
            print_addresses(port, admin_port)
        return service.wait()
    finally:
        if with_terminal:
            give_terminal(os.getpgrp())


def in_use(port: int) -> bool:
    """Whether somebody listens on `port` already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def give_terminal(group: int) -> bool:
    """Put `group` in front of the terminal, if there is one and it is ours to give."""
    # Whoever isn't in front is stopped for asking, unless this signal is ignored.
    before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    try:
        if os.tcgetpgrp(0) not in (os.getpgrp(), group) and group != os.getpgrp():
            return False
        os.tcsetpgrp(0, group)
    except OSError:
        return False
    finally:
        signal.signal(signal.SIGTTOU, before)
    return True


def answers(address: str, service: "subprocess.Popen[bytes]") -> bool:
    """Wait until `address` answers with success; False when the service ends first."""
    while True:
        try:
            with urllib.request.urlopen(address, timeout=1):
                return True
        except (urllib.error.URLError, OSError):
            try:
                service.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            return False


def print_addresses(port: int, admin_port: int) -> None:
    """The list of what to open in a browser."""
    lines = [(f"http://127.0.0.1:{port}/{path}", meaning) for path, meaning in PUBLIC.items()]
    lines += [(f"http://127.0.0.1:{admin_port}/{path}", meaning) for path, meaning in ADMIN.items()]
    listed = "".join(f"  {address:<32} {meaning}\n" for address, meaning in lines)
    print(f"\n{listed}\n  Ctrl-C ends it.\n", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
