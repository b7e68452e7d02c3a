"""The candidates: how each is started, and what it must log, count and export for its requests."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from .processes import ROOT
from .service import PACKAGE, Installer, versions

OUR_COUNTER = "http_server_request_duration_seconds_count"
THEIR_COUNTER = "http_requests_total"
ONE_PERCENT = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
ALL = {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server that can be started.

    `kind` is ours, bare, part or usual. `sampled` is the share of requests whose spans must arrive, None if it
    exports none or nobody receives them. `counter` is the metric that counts requests.
    """

    label: str
    kind: str
    command: tuple[str | Path, ...]
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    port_variable: str = "PORT"
    ready_path: str = "/items/1"
    stop_signal: int = signal.SIGINT
    logs: bool = False
    counter: str | None = None
    sampled: float | None = None


class Candidates:
    """All candidates by name. An environment is installed when its first candidate is used."""

    def __init__(self, installer: Installer, collector_port: int, against: str | None, *, smoke: bool) -> None:
        self._installer = installer
        self._collector = f"http://127.0.0.1:{collector_port}"
        self._against = against
        self._smoke = smoke
        self.service_python = installer.service("service")

    @cached_property
    def _peers_python(self) -> Path:
        # The service's environment has uvicorn, so a smoke run needs no other.
        return self.service_python if self._smoke else self._installer.peers(self.service_python)

    @cached_property
    def _before_python(self) -> Path:
        return self._installer.service("before", self._against, like=self.service_python)

    def versions(self) -> dict[str, str]:
        """Of Python and the libraries, as far as they are installed now."""
        theirs = versions(self._peers_python) if "_peers_python" in self.__dict__ else {}
        return {"python": self._installer.version, **theirs, **versions(self.service_python)}

    def main(self) -> dict[str, Candidate]:
        """The candidates of the throughput section; the first is what the others are compared with."""
        least = {
            "bare_asgi": self.peer("bare ASGI function", "yardstick", "asgi"),
            "ours": self.ours(),
            "ours_100": self.ours(1.0),
        }
        return (
            least
            if self._smoke
            else {
                **least,
                "bare_fastapi": self.peer("FastAPI, bare", "bare", "fastapi"),
                "ours_no_line": self.ours(env={"APP_LOG_LEVEL": "WARNING"}, what="no access line, 1 % sampled"),
                "ours_no_spans": self.ours(0.0),
                "part_opentelemetry": self.peer("FastAPI + OpenTelemetry, 1 % sampled", "part", "fastapi", "traces"),
                "part_structlog": self.peer("FastAPI + structlog access line", "part", "fastapi", "logs"),
                "usual": self.usual(0.01),
                "usual_100": self.usual(1.0),
            }
        )

    def ours(
        self,
        sampled: float = 0.01,
        *,
        env: Mapping[str, str] | None = None,
        what: str = "",
        before: bool = False,
    ) -> Candidate:
        """The rendered service, started as in a container."""
        sampler = {0.0: {"OTEL_TRACES_SAMPLER": "always_off"}, 0.01: ONE_PERCENT, 1.0: ALL}[sampled]
        chosen = {"APP_HOST": "127.0.0.1", "APP_DRAIN_SECONDS": "0", **self._export(), **sampler, **(env or {})}
        return Candidate(
            label=f"ours, {what or f'observed, {sampled * 100:.0f} % sampled'}",
            kind="ours",
            command=(self._before_python if before else self.service_python, "-m", PACKAGE),
            folder=self._installer.folder,
            env=chosen,
            port_variable="APP_PORT",
            ready_path="/readyz",
            stop_signal=signal.SIGTERM,
            logs="APP_LOG_LEVEL" not in chosen,
            counter=OUR_COUNTER,
            sampled=sampled,
        )

    def peer(self, label: str, kind: str, name: str, *parts: str) -> Candidate:
        """A peer of `peers.py`."""
        return Candidate(
            label=label,
            kind=kind,
            command=(self._peers_python, "-m", "benchmarks.peers", name, *parts),
            folder=ROOT,
            env={**self._export(), **ONE_PERCENT, "OTEL_SERVICE_NAME": name},
            logs="logs" in parts,
            counter=THEIR_COUNTER if "metrics" in parts else None,
            sampled=0.01 if "traces" in parts else None,
        )

    def usual(self, sampled: float) -> Candidate:
        """The usual stack: FastAPI with all three parts."""
        whole = self.peer(
            f"FastAPI + all three, {sampled * 100:.0f} % sampled", "usual", "fastapi", "logs", "metrics", "traces"
        )
        return replace(whole, env={**whole.env, **(ALL if sampled == 1 else ONE_PERCENT)}, sampled=sampled)

    def collectors(self) -> dict[str, Candidate]:
        """All requests are sampled, and the collector responds, refuses connections, or never responds."""
        endpoints = {
            "responds": self._collector,
            "refuses": "http://127.0.0.1:1",
            "hangs": f"{self._collector}/hanging",
        }
        return {
            name: replace(
                self.ours(1.0, env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, what=f"collector {name}"),
                sampled=1.0 if name == "responds" else None,
            )
            for name, endpoint in endpoints.items()
        }

    def before_and_now(self) -> list[dict[str, Candidate]]:
        """The service of the other commit and of the working tree, at each sampling."""
        return [
            {
                f"before{suffix}": self.ours(share, what=f"before, {share * 100:.0f} % sampled", before=True),
                f"now{suffix}": self.ours(share, what=f"now, {share * 100:.0f} % sampled"),
            }
            for share, suffix in ((0.01, ""), (1.0, "_100"))
        ]

    def _export(self) -> dict[str, str]:
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self._collector}
