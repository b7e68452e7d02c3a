"""The candidates: how each is started, and what it should have logged, counted and exported for its requests."""

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from .environment import Environments
from .service import PACKAGE, ROOT

Group = Literal["yardstick", "bare", "part", "usual", "ours"]

OUR_COUNTER = "http_server_request_duration_seconds_count"
THEIR_COUNTER = "http_requests_total"
# One access line of ours and of structlog with orjson alike.
ACCESS_MARKER = '"event":"request"'
ONE_PERCENT = {"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.01"}
ALL = {"OTEL_TRACES_SAMPLER": "parentbased_always_on"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server that can be started, and what is known of it.

    `sampled` is the share of requests whose spans should arrive, None where there are no spans;
    `counter` names its metric that counts requests; `logs` says whether each request has a line.
    """

    name: str
    label: str
    group: Group
    command: tuple[str | Path, ...]
    folder: Path
    port_variable: str = "PORT"
    env: Mapping[str, str] = field(default_factory=dict)
    ready_path: str = "/items/1"
    stop_signal: int = signal.SIGINT
    logs: bool = False
    counter: str | None = None
    sampled: float | None = None

    def with_env(self, **env: str) -> "Candidate":
        """The same with more in its environment."""
        return replace(self, env={**self.env, **env})

    def with_other_routes(self, number: int) -> "Candidate":
        """The same with `number` parametrised routes before the measured one."""
        return self.with_env(**{"APP_OTHER_ROUTES" if self.group == "ours" else "OTHER_ROUTES": str(number)})


class Catalogue:
    """All candidates, in the order in which they are shown."""

    def __init__(self, environments: Environments, variants: dict[str, Path], collector_port: int) -> None:
        self._environments = environments
        self._variants = variants
        self._export = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector_port}"}

    def main(self) -> list[Candidate]:
        """Those of the first table."""
        return [
            self.peer("bare_asgi", "bare ASGI function", "yardstick"),
            self.peer("bare_starlette", "Starlette, bare", "bare"),
            self.peer("bare_litestar", "Litestar, bare", "bare", environment="litestar"),
            self.peer("bare_fastapi", "FastAPI, bare", "bare"),
            self.ours("ours_off", "ours, everything off", variant="nothing"),
            self.ours("ours", "ours, observed, 1 % sampled", env=ONE_PERCENT, sampled=0.01),
            self.ours("ours_100", "ours, observed, 100 % sampled", env=ALL, sampled=1.0),
            self.peer("part_prometheus", "FastAPI + Prometheus instrumentator", "part", counter=THEIR_COUNTER),
            self.peer("part_opentelemetry", "FastAPI + OpenTelemetry, 1 %", "part", env=ONE_PERCENT, sampled=0.01),
            self.peer("part_structlog", "FastAPI + structlog access line", "part", logs=True),
            self.usual("usual", "FastAPI + all three, 1 % sampled", env=ONE_PERCENT, sampled=0.01),
            self.usual("usual_100", "FastAPI + all three, 100 % sampled", env=ALL, sampled=1.0),
        ]

    def parts(self) -> list[tuple[Candidate, str]]:
        """Our service with one part left out each, and what that part is."""
        env = ONE_PERCENT
        no_spans = {"OTEL_TRACES_SAMPLER": "always_off"}
        return [
            (self.ours("ours", "whole, 1 % sampled", env=env, sampled=0.01), ""),
            (self.ours("ours_100", "whole, 100 % sampled", env=ALL, sampled=1.0), ""),
            (
                self.ours("no_line", "no line", env={**env, "APP_LOG_LEVEL": "WARNING"}, sampled=0.01, logs=False),
                "the access line",
            ),
            (
                self.ours("no_metrics", "no metrics", env=env, sampled=0.01, variant="no-metrics", counter=None),
                "the metrics of requests",
            ),
            (self.ours("no_spans", "no spans", env=no_spans, sampled=0.0), "spans, 1 % sampled"),
            (
                self.ours("no_telemetry", "no telemetry", env=env, variant="no-telemetry", logs=False, counter=None),
                "telemetry as a whole, 1 % sampled",
            ),
            (
                self.ours("no_security", "no security headers", env=env, sampled=0.01, variant="no-security"),
                "security headers",
            ),
            (self.ours("no_guard", "no guard", env=env, sampled=0.01, variant="no-guard"), "the guard"),
            (self.ours("ours_off", "nothing", variant="nothing"), "all middleware"),
        ]

    def named(self, name: str) -> Candidate:
        """One of the main candidates."""
        return next(one for one in self.main() if one.name == name)

    def collectors(self) -> list[Candidate]:
        """Our service, all of whose spans go to a collector that lives, and to some that don't."""
        live = self._export["OTEL_EXPORTER_OTLP_ENDPOINT"]
        endpoints = {
            "answers": live,
            "is absent": "http://192.0.2.1:4318",  # nobody's address (RFC 5737): what is sent there is lost
            "refuses": "http://127.0.0.1:1",
            "hangs": f"{live}/hanging",
            "answers 503": f"{live}/failing",
        }
        whole = self.named("ours_100")
        return [
            replace(
                whole.with_env(OTEL_EXPORTER_OTLP_ENDPOINT=endpoint),
                name=f"ours, collector {what}",
                label=what,
                sampled=1.0 if endpoint == live else None,
            )
            for what, endpoint in endpoints.items()
        ]

    def computing(self) -> list[Candidate]:
        """Those that answer `/computing` in a thread; ours also with Python's own time between threads."""
        # Requests that a thread holds up are a queue that stays, and load control would turn some away.
        patience = {**ONE_PERCENT, "APP_QUEUE_SECONDS": "60"}
        return [
            self.named("bare_fastapi"),
            self.ours("ours_5_ms", "ours, with Python's 5 ms", env=patience, sampled=0.01, variant="no-switch"),
            self.ours("ours", "ours, observed, 1 % sampled", env=patience, sampled=0.01),
        ]

    def bodies(self) -> list[Candidate]:
        """Those that answer `/blob`."""
        bare = self.peer("bare_bodies", "bare ASGI function", "yardstick")
        bare = replace(bare, ready_path="/blob/1")
        return [
            bare,
            self.named("bare_fastapi"),
            # 64 megabytes asked for at once are an overload as well.
            self.named("ours").with_env(APP_MAX_BODY_BYTES="4000000", APP_QUEUE_SECONDS="60"),
            self.named("usual"),
        ]

    def peer(
        self,
        module: str,
        label: str,
        group: Group,
        *,
        environment: str = "peers",
        env: Mapping[str, str] | None = None,
        logs: bool = False,
        counter: str | None = None,
        sampled: float | None = None,
        name: str = "",
    ) -> Candidate:
        """A module of `candidates/`."""
        return Candidate(
            name=name or module,
            label=label,
            group=group,
            command=(self._environments.pythons[environment], "-m", f"benchmarks.candidates.{module}"),
            folder=ROOT,
            env={**self._export, "OTEL_SERVICE_NAME": name or module, **(env or {})},
            logs=logs,
            counter=counter,
            sampled=sampled,
        )

    def usual(self, name: str, label: str, *, env: Mapping[str, str], sampled: float) -> Candidate:
        """The usual stack, all parts together."""
        return self.peer(
            "usual_stack", label, "usual", env=env, logs=True, counter=THEIR_COUNTER, sampled=sampled, name=name
        )

    def ours(
        self,
        name: str,
        label: str,
        *,
        variant: str = "whole",
        env: Mapping[str, str] | None = None,
        sampled: float | None = None,
        logs: bool | None = None,
        counter: str | None = OUR_COUNTER,
    ) -> Candidate:
        """The rendered service, started the way it is in a container."""
        observed = variant != "nothing"
        return Candidate(
            name=name,
            label=label,
            group="ours",
            command=(self._environments.pythons["service"], "-m", PACKAGE),
            folder=self._variants[variant],
            port_variable="APP_PORT",
            env={**self._export, "APP_HOST": "127.0.0.1", "APP_DRAIN_SECONDS": "0", **(env or {})},
            ready_path="/readyz",
            stop_signal=signal.SIGTERM,
            logs=observed if logs is None else logs,
            counter=counter if observed else None,
            sampled=sampled,
        )
