"""The candidates: how each is started, and what it must log, count and export for its requests."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from chassis.auth.issuer import Issuer

from .processes import ALL_CORES, ROOT, SERVER_CORES
from .service import PACKAGE, Installer, versions

OUR_COUNTER = "http_server_request_duration_seconds_count"
THEIR_COUNTER = "http_requests_total"
SMOKE = (
    *("bare_asgi", "ours", "ours_100", "bare_real", "ours_real", "bare_new", "ours_new", "hangs"),
    *("bare_asyncpg", "ours_asyncpg", "ours_orm", "bare_aiohttp", "ours_calls", "before", "now"),
)
# httpx keeps twenty connections by default, and opens a new one for each further call at the same time.
CALLING_CONNECTIONS = 16
VERIFYING = ("cached", "verified", "bare_pyjwt")
ISSUER, AUDIENCE = "https://login.example", "items"
# With Host, eleven headers as a browser and a proxy send them, and a caller that traces.
REAL_HEADERS = {
    "user-agent": "Mozilla/5.0 (X11; Linux x86_64; rv:144.0) Gecko/20100101 Firefox/144.0",
    "accept": "application/json",
    "accept-encoding": "gzip, deflate, br, zstd",
    "accept-language": "en-US,en;q=0.5",
    "x-forwarded-for": "203.0.113.7",
    "x-forwarded-proto": "https",
    "x-real-ip": "203.0.113.7",
    "x-request-id": "0af7651916cd43dd8448eb211c80319c",
    "cookie": "theme=dark; session=abcdefghijklmnopqrstuvwxyz0123",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00",
}
SAMPLED_PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SAMPLERS = {0.0: "always_off", 0.01: "parentbased_traceidratio", 1.0: "parentbased_always_on"}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A server that can be started.

    `kind` is ours, yardstick, bare, part or usual. `sampled` is the share of requests whose spans must arrive, None
    if it exports none or no collector receives them. `counter` is the metric that counts requests. Each request has
    `headers`; if the candidate `verifies`, it rejects other tokens than that in them. With an admin port, the
    counter is there. Each of its `processes` gets as many `connections`.
    """

    label: str
    kind: str
    command: tuple[str | Path, ...]
    folder: Path
    env: Mapping[str, str]
    logs: bool
    counter: str | None
    sampled: float | None
    headers: Mapping[str, str] = field(default_factory=dict)
    verifies: bool = False
    cores: frozenset[int] = SERVER_CORES
    processes: int = 1
    connections: int = 64
    has_admin_port: bool = False


class Candidates:
    """All candidates by name. An environment is installed when its first candidate is used."""

    def __init__(self, installer: Installer, collector_port: int, against: str | None, *, smoke: bool) -> None:
        self._installer = installer
        self._collector = f"http://127.0.0.1:{collector_port}"
        self._against = against
        self._smoke = smoke
        self._service = installer.service("service")

    @cached_property
    def _peers(self) -> Path:
        return self._installer.peers(self._service, bare=self._smoke)

    @cached_property
    def _drivers(self) -> None:
        """The drivers of databases, in both environments. The first candidate that needs them installs them."""
        self._installer.add_drivers(self._service, self._peers, bare=self._smoke)

    @cached_property
    def clients(self) -> Path:
        """The Python of the HTTP clients."""
        return self._installer.clients(self._service, bare=self._smoke)

    @cached_property
    def _callers(self) -> None:
        """The libraries that make outbound calls, in both environments. The first that needs them installs them."""
        self._installer.add_callers(self._service, self._peers, bare=self._smoke)

    @cached_property
    def _verifiers(self) -> None:
        """The libraries that verify tokens, in both environments. The first candidate that needs them installs them."""
        self._installer.add_verifiers(self._service, self._peers, bare=self._smoke)

    @cached_property
    def _before(self) -> Path:
        return self._installer.service("before", self._against, like=self._service)

    def versions(self) -> dict[str, str]:
        """Of Python and the libraries, as far as they are installed now."""
        theirs = versions(self._peers) if "_peers" in self.__dict__ else {}
        clients = versions(self.clients) if "clients" in self.__dict__ else {}
        return {"python": self._installer.version, **clients, **theirs, **versions(self._service)}

    def _chosen(self, every: dict[str, Candidate]) -> dict[str, Candidate]:
        return {name: one for name, one in every.items() if not self._smoke or name in SMOKE}

    def main(self) -> dict[str, Candidate]:
        """The candidates of the throughput section; the others are compared with the first."""
        parts = ("fastapi", "logs", "metrics", "traces")
        every = {
            "bare_asgi": self._peer("bare ASGI function", "yardstick", "asgi"),
            "bare_fastapi": self._peer("FastAPI, bare", "bare", "fastapi"),
            "ours": self._ours(),
            "ours_100": self._ours(1.0),
            "ours_no_line": self._ours(what="no access line, 1 % sampled", APP_LOG_LEVEL="WARNING"),
            "ours_no_spans": self._ours(0.0),
            "part_opentelemetry": self._peer("FastAPI + OpenTelemetry, 1 % sampled", "part", "fastapi", "traces"),
            "part_structlog": self._peer("FastAPI + structlog access line", "part", "fastapi", "logs"),
            "usual": self._peer("FastAPI + all three, 1 % sampled", "usual", *parts),
            "usual_100": self._peer("FastAPI + all three, 100 % sampled", "usual", *parts, sampled=1.0),
        }
        return self._chosen(every)

    def collectors(self) -> dict[str, Candidate]:
        """All requests are sampled, and the collector responds, rejects connections, or never responds."""
        endpoints = {
            "responds": self._collector,
            "refuses": "http://127.0.0.1:1",
            "hangs": f"{self._collector}/hanging",
        }
        return self._chosen(
            {
                name: self._ours(1.0, what=f"collector {name}", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
                for name, endpoint in endpoints.items()
            }
        )

    def database(self, url: str) -> dict[str, Candidate]:
        """Each reads one row by its primary key; the others are compared with the first."""
        _ = self._drivers
        parts = ("logs", "metrics", "traces", "queries")
        every = {
            "bare_asyncpg": self._peer("bare ASGI function with asyncpg", "yardstick", "asyncpg", DATABASE_URL=url),
            "ours_asyncpg": self._ours(what="asyncpg, 1 % sampled", module="asyncpg_app", APP_DATABASE_URL=url),
            "ours_orm": self._ours(what="SQLAlchemy's ORM, 1 % sampled", module="sqlalchemy_app", APP_DATABASE_URL=url),
            "bare_orm": self._peer("FastAPI + SQLAlchemy's ORM, bare", "bare", "orm", DATABASE_URL=url),
            "usual_orm": self._peer(
                "FastAPI + SQLAlchemy's ORM + all four, 1 % sampled", "usual", "orm", *parts, DATABASE_URL=url
            ),
        }
        return self._chosen(every)

    def outbound(self, url: str) -> dict[str, Candidate]:
        """Each makes one call for each request; the others are compared with the first."""
        _ = self._callers
        every = {
            "bare_aiohttp": self._peer("bare ASGI function with aiohttp", "yardstick", "aiohttp", UPSTREAM_URL=url),
            "ours_calls": self._ours(what="app.client, 1 % sampled", module="calling_app", UPSTREAM_URL=url),
            "bare_fastapi_aiohttp": self._peer("FastAPI + aiohttp, bare", "bare", "fastapi_aiohttp", UPSTREAM_URL=url),
            "bare_fastapi_httpx": self._peer("FastAPI + httpx, bare", "bare", "fastapi_httpx", UPSTREAM_URL=url),
            "usual_httpx": self._peer(
                "FastAPI + httpx + all four, 1 % sampled",
                "usual",
                "fastapi_httpx",
                *("logs", "metrics", "traces", "calls"),
                UPSTREAM_URL=url,
            ),
        }
        chosen = self._chosen(every)
        return {name: replace(one, connections=CALLING_CONNECTIONS) for name, one in chosen.items()}

    def auth(self) -> dict[str, Candidate]:
        """All get the same token; the others are compared with the first, which does not look at it."""
        _ = self._verifiers
        issuer = Issuer(ISSUER, AUDIENCE)
        keys = json.dumps(issuer.keys)
        ours = {"APP_AUTH_ISSUER": ISSUER, "APP_AUTH_AUDIENCE": AUDIENCE, "TOKEN_KEYS": keys}
        # Verification takes so long that all connections together are an overload by default.
        uncached = {**ours, "APP_AUTH_TOKEN_CACHE": "0", "APP_QUEUE_SECONDS": "60"}
        theirs = {"TOKEN_ISSUER": ISSUER, "TOKEN_AUDIENCE": AUDIENCE, "TOKEN_KEYS": keys}
        every = {
            "open": self._ours(what="no authentication, 1 % sampled"),
            "cached": with_env(self._ours(what="cached token, 1 % sampled", module="auth_app"), ours),
            "verified": with_env(self._ours(what="each token verified, 1 % sampled", module="auth_app"), uncached),
            "bare_fastapi": self._peer("FastAPI, bare", "bare", "fastapi"),
            "bare_pyjwt": with_env(self._peer("FastAPI + PyJWT, bare", "bare", "pyjwt"), theirs),
        }
        headers = issuer.headers(scopes=["items:read"])
        return {
            name: replace(one, headers=headers, verifies=name in VERIFYING)
            for name, one in every.items()
            if not self._smoke or one.kind == "ours"
        }

    def workers(self) -> dict[str, Candidate]:
        """Services with one and with two processes, on all cores, which the load shares."""
        every = {
            "ours_1": self._ours(what="one process, 1 % sampled"),
            "ours_2": replace(self._ours(what="two workers, 1 % sampled", APP_WORKERS="2"), has_admin_port=True),
        }
        if not self._smoke:
            _ = self._other_servers
            usual, bare = "FastAPI + all three", "bare ASGI function"
            every |= {
                "usual_1": self._on_gunicorn(f"{usual}, gunicorn, one uvicorn worker", "usual", 1),
                "usual_2": self._on_gunicorn(f"{usual}, gunicorn, two uvicorn workers", "usual", 2),
                "gunicorn_2": self._on_gunicorn(f"{bare}, gunicorn, two uvicorn workers", "bare_asgi", 2),
                "granian_1": self._on_granian(f"{bare}, granian, one worker", "bare_asgi", 1),
                "granian_2": self._on_granian(f"{bare}, granian, two workers", "bare_asgi", 2),
            }
        return {name: replace(one, cores=ALL_CORES, processes=int(name[-1])) for name, one in every.items()}

    def _on_gunicorn(self, label: str, app: str, workers: int) -> Candidate:
        options = ("--worker-class", "uvicorn_worker.UvicornWorker", "--graceful-timeout", "1", "--log-level", "error")
        return self._served(label, "gunicorn", *options, "--workers", str(workers), f"benchmarks.peers:{app}()")

    def _on_granian(self, label: str, app: str, workers: int) -> Candidate:
        options = ("--interface", "asgi", "--factory", "--no-ws", "--log-level", "warning")
        return self._served(label, "granian", *options, "--workers", str(workers), f"benchmarks.peers:{app}")

    def _served(self, label: str, server: str, *arguments: str) -> Candidate:
        """A peer behind another server, which takes its address from the environment."""
        env = {**self._env(0.01), "GRANIAN_HOST": "127.0.0.1"}
        return Candidate(label, "usual", (self._peers, "-m", server, *arguments), ROOT, env, False, None, None)

    @cached_property
    def _other_servers(self) -> None:
        self._installer.add_servers(self._peers)

    def wire(self) -> list[dict[str, Candidate]]:
        """The bare function and ours, with requests as real clients send them."""
        bare = self._peer("bare ASGI function", "yardstick", "asgi")
        ours = self._ours()
        real, traced, closed = REAL_HEADERS, {**REAL_HEADERS, "traceparent": SAMPLED_PARENT}, {"connection": "close"}
        every: list[dict[str, Candidate]] = [
            {
                "bare_real": replace(bare, label=f"{bare.label}, eleven headers", headers=real),
                "ours_real": replace(ours, label="ours, eleven headers, not sampled", headers=real, sampled=0.0),
                "ours_real_100": replace(
                    ours, label="ours, eleven headers, 100 % sampled", headers=traced, sampled=1.0
                ),
            },
            {
                "bare_two": replace(bare, label=f"{bare.label}, two connections", connections=2),
                "ours_two": replace(ours, label="ours, two connections, 1 % sampled", connections=2),
            },
            {
                "bare_new": replace(bare, label=f"{bare.label}, new connections", headers=closed),
                "ours_new": replace(ours, label="ours, new connections, 1 % sampled", headers=closed),
            },
        ]
        return [group for group in map(self._chosen, every) if group]

    def before_and_now(self) -> list[dict[str, Candidate]]:
        """The service of the other commit and of the working tree, at each sampling."""
        every = [
            {
                f"before{suffix}": self._ours(
                    sampled, what=f"before, {sampled * 100:.0f} % sampled", python=self._before
                ),
                f"now{suffix}": self._ours(sampled, what=f"now, {sampled * 100:.0f} % sampled"),
            }
            for sampled, suffix in ((0.01, ""), (1.0, "_100"))
        ]
        return [pair for pair in map(self._chosen, every) if pair]

    def _env(self, sampled: float) -> dict[str, str]:
        sampler = {"OTEL_TRACES_SAMPLER": SAMPLERS[sampled], "OTEL_TRACES_SAMPLER_ARG": str(sampled)}
        return {"OTEL_EXPORTER_OTLP_ENDPOINT": self._collector, "OTEL_SERVICE_NAME": "bench", **sampler}

    def _ours(
        self, sampled: float = 0.01, *, what: str = "", python: Path | None = None, module: str = "", **env: str
    ) -> Candidate:
        """The rendered service, started as in a container."""
        env = {"APP_HOST": "127.0.0.1", "APP_DRAIN_SECONDS": "0", **self._env(sampled), **env}
        if self._smoke:  # it shares its cores, so requests and spans may have to wait for them
            env |= {"APP_QUEUE_SECONDS": "60", "OTEL_BSP_MAX_QUEUE_SIZE": "200000"}
        if "APP_DATABASE_URL" in env:  # all clients come at once, while the pool opens its connections
            env |= {"APP_QUEUE_SECONDS": "60", "APP_DATABASE_POOL_WAIT_SECONDS": "60"}
        return Candidate(
            label=f"ours, {what or f'observed, {sampled * 100:.0f} % sampled'}",
            kind="ours",
            command=(python or self._service, "-m", f"{PACKAGE}.{module}" if module else PACKAGE),
            folder=self._installer.folder,
            env=env,
            logs="APP_LOG_LEVEL" not in env,
            counter=OUR_COUNTER,
            sampled=sampled if env["OTEL_EXPORTER_OTLP_ENDPOINT"] == self._collector else None,
        )

    def _peer(self, label: str, kind: str, name: str, *parts: str, sampled: float = 0.01, **env: str) -> Candidate:
        """A peer of `peers.py`."""
        return Candidate(
            label=label,
            kind=kind,
            command=(self._peers, "-m", "benchmarks.peers", name, *parts),
            folder=ROOT,
            env={**self._env(sampled), **env},
            logs="logs" in parts,
            counter=THEIR_COUNTER if "metrics" in parts else None,
            sampled=sampled if "traces" in parts else None,
        )


def with_env(candidate: Candidate, env: Mapping[str, str]) -> Candidate:
    """The candidate with more variables."""
    return replace(candidate, env={**candidate.env, **env})
