"""Debian's Prometheus, and questions to it."""

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from bakery import clean_environment
from running import PATIENCE_SECONDS


@contextmanager
def scraping(configuration: str, folder: Path) -> Iterator[httpx.Client]:
    """A Prometheus with this configuration; its HTTP interface."""
    config = folder / "prometheus.yml"
    config.write_text(configuration)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={address}",
                "--enable-feature=exemplar-storage",
            ],
            env=clean_environment(folder),
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        try:
            with httpx.Client(base_url=f"http://{address}/api/v1", trust_env=False) as client:
                yield client
        finally:
            process.terminate()
            process.wait(PATIENCE_SECONDS)
            print((folder / "prometheus.log").read_text())


def eventually(ask: Callable[[], Any]) -> Any:
    """The first result that isn't empty."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        try:
            if answer := ask():
                return answer
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError("nothing came")


def data(client: httpx.Client, path: str, **query: str) -> Any:
    """Prometheus' response to a query; None if it does not understand it."""
    answer = client.get(path, params=query)
    return answer.json()["data"] if answer.status_code == 200 else None
