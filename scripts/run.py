"""Runs a service in the foreground, prints its addresses, and forwards signals to it.

On a terminal, Ctrl-C goes to every process of the foreground process group. make would stop too, and report an error
although the service shut down gracefully. So the service gets its own process group, which becomes the foreground
group, like a job of a shell. Signals to this process are forwarded to the service.
"""

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

PUBLIC = {"orders": "the example API", "docs": "API documentation, to read and to try"}
ADMIN = {
    "healthz": "liveness",
    "readyz": "readiness with its checks",
    "metrics": "Prometheus metrics",
    "info": "name, versions, start time",
}
CONSOLE_OFFSET, MAX_PORT = 1000, 65535  # as in server.py of the core


def main(command: list[str]) -> int:
    """Run `command` until it ends or a signal ends it; returns its exit status."""
    port = int(os.environ.get("APP_PORT") or 8000)
    admin_port = int(os.environ.get("APP_ADMIN_PORT") or port)
    for number in {port, admin_port}:
        if is_in_use(number):
            print(f"error: port {number} is in use; choose another, such as: make run APP_PORT={number + 1}")
            return 1
    console_port = console_port_of(port)
    service = subprocess.Popen(command, process_group=0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda number, _: service.send_signal(number))
    has_terminal = give_terminal(service.pid)
    try:
        if wait_until_alive(f"http://127.0.0.1:{admin_port}/healthz", service):
            print_addresses(port, admin_port, console_port)
        return service.wait()
    finally:
        if has_terminal:
            give_terminal(os.getpgrp())


def console_port_of(port: int) -> int | None:
    """The port of the console for operators; None if there is none, or if the service has to choose another one."""
    if os.environ.get("APP_ADMIN_PORT"):
        return int(os.environ["APP_ADMIN_PORT"])
    beside = port + CONSOLE_OFFSET
    is_free = os.environ.get("APP_DEVELOPMENT") == "true" and beside <= MAX_PORT and not is_in_use(beside)
    return beside if is_free else None


def is_in_use(port: int) -> bool:
    """Whether a process listens on `port` already."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError:
            return True
    return False


def give_terminal(group: int) -> bool:
    """Make `group` the foreground process group of the terminal; False if there is no terminal, or it is not ours."""
    # The kernel stops a background process that calls tcsetpgrp, unless it ignores SIGTTOU.
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


def wait_until_alive(address: str, service: "subprocess.Popen[bytes]") -> bool:
    """Wait until `address` responds with success; False if the service ends first."""
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


def print_addresses(port: int, admin_port: int, console_port: int | None) -> None:
    """Print the addresses to open in a browser."""
    lines = [(f"http://127.0.0.1:{port}/{path}", meaning) for path, meaning in PUBLIC.items()]
    lines += [(f"http://127.0.0.1:{admin_port}/{path}", meaning) for path, meaning in ADMIN.items()]
    if console_port is not None:
        lines.append((f"http://127.0.0.1:{console_port}/", "the console: charts, requests, traces, logs"))
    listed = "".join(f"  {address:<32} {meaning}\n" for address, meaning in lines)
    print(f"\n{listed}\n  Press Ctrl-C to stop.\n", flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
