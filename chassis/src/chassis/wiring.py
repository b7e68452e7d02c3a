"""Creates the parts of `App` and `Server` from the settings: the composition root below them."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from functools import partial
from importlib import metadata
from typing import TYPE_CHECKING

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from structlog.typing import Processor

from .api.rate_limit import DEFAULT, RateLimit, RateLimitStore
from .api.rate_limiter import CallerOf, RateLimiter
from .api.rate_limiting import RateLimiting
from .configuration.sources import given_for
from .health import Check, Health
from .http.limits import ConnectionLimits
from .middleware.load_shedder import LoadShedder
from .middleware.problems import ProblemMiddleware
from .operations.audit import Audit
from .problem import ProblemOf
from .settings import ChassisSettings
from .telemetry import Telemetry
from .telemetry.logs import Logs
from .telemetry.recent_spans import RecentSpans
from .telemetry.sampling import DEFAULT_RATIO
from .telemetry.tracing import Tracing
from .threads import Threads

if TYPE_CHECKING:  # few services inject faults, or have secret files that change
    from .configuration.reloading import Reloading
    from .faults import Faults


def make_telemetry(
    settings: ChassisSettings, *, service: str, version: str, log_processors: Collection[Processor] = ()
) -> Telemetry:
    """The telemetry for `settings` and the `OTEL_*` variables.

    `log_processors` are structlog processors. They get every event, access lines included, before it is written.
    """
    logs = Logs(
        level=settings.log_level,
        format=settings.log_format,
        redact=settings.log_redact,
        processors=log_processors,
        buffer_bytes=settings.log_buffer_bytes,
    )
    ratio = 1.0 if settings.development else DEFAULT_RATIO
    tracing = Tracing(service, version=version, redactor=logs.redactor, default_ratio=ratio)
    spans = RecentSpans() if settings.development else None
    return Telemetry(service, version=version, commit=settings.commit, logs=logs, tracing=tracing, recent_spans=spans)


def make_health(settings: ChassisSettings, telemetry: Telemetry) -> Health:
    """The health of the service, with the metrics of its readiness and of its checks."""
    metrics = telemetry.metrics

    def measure(check: Check) -> None:
        metrics.checks.labels(check.name).set_function(lambda: health.has_passed(check.name))

    health = Health(cache_seconds=settings.readiness_cache_seconds, on_add=measure)
    metrics.ready.set_function(lambda: health.is_ready)
    return health


def make_faults(settings: ChassisSettings, telemetry: Telemetry) -> "Faults | None":
    """The faults that can be injected; None unless the settings allow them."""
    if not settings.fault_injection:
        return None
    from .faults import Faults

    # At every log level: an operator who sets it to CRITICAL does not hide the faults.
    log_change = partial(Audit(telemetry.logs).line, "warning", "faults changed")
    return Faults(telemetry.metrics.registry, log_change=log_change)


def make_load_shedder(settings: ChassisSettings, telemetry: Telemetry) -> LoadShedder:
    """The load shedder for these settings."""
    return LoadShedder(settings.max_requests, telemetry.metrics, queue_seconds=settings.queue_seconds)


def make_rate_limiting(
    settings: ChassisSettings, telemetry: Telemetry, store: RateLimitStore | None, caller_of: CallerOf | None
) -> RateLimiting:
    """The rate limits for these settings. `store` and `caller_of` are as for `App.configure_rate_limits`."""
    limiter = RateLimiter(
        rejected=telemetry.metrics.rate_limited_requests,
        store_failures=telemetry.metrics.rate_limit_store_failures,
        store=store,
        caller_of=caller_of,
    )
    return RateLimiting(limiter, default_rate_limit(settings))


def default_rate_limit(settings: ChassisSettings) -> RateLimit | None:
    """The rate limit of the service; None without one."""
    requests, seconds, burst = settings.rate_limit_requests, settings.rate_limit_seconds, settings.rate_limit_burst
    return None if requests is None else RateLimit(requests, seconds, burst, DEFAULT)


def cors_middleware(
    settings: ChassisSettings, problems: Mapping[type[Exception], ProblemOf], *, has_middleware: bool
) -> list[Middleware]:
    """The middleware that lets scripts of `cors_origins` use the service; none without origins.

    With other middleware inside of it, it also sees the problems that these raise.
    """
    if not settings.cors_origins:
        return []
    cors = [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=settings.cors_methods,
            allow_headers=settings.cors_headers,
            allow_credentials=settings.cors_credentials,
            expose_headers=settings.cors_exposed_headers,
            max_age=settings.cors_max_age_seconds,
        )
    ]
    return [*cors, Middleware(ProblemMiddleware, problems=problems, sends_rejections=False)] if has_middleware else cors


def make_threads(settings: ChassisSettings, telemetry: Telemetry) -> Threads:
    """The threads of `def` handlers for these settings."""
    metrics = telemetry.metrics
    threads = Threads(settings.threads, on_shed=metrics.shed_requests.labels("threads").inc)
    metrics.max_threads.set_function(lambda: threads.size)
    metrics.threads.set_function(lambda: threads.in_use)
    return threads


def make_connection_limits(settings: ChassisSettings) -> ConnectionLimits:
    """The connection limits of a port for these settings."""
    return ConnectionLimits(
        max_connections=settings.max_connections,
        max_connection_age_seconds=settings.max_connection_age_seconds,
        max_requests_per_connection=settings.max_requests_per_connection,
        max_target_bytes=settings.max_target_bytes,
        max_head_bytes=settings.max_head_bytes,
        head_seconds=settings.head_seconds,
        body_seconds=settings.body_seconds,
        min_bytes_per_second=settings.min_bytes_per_second,
    )


def make_reloading(
    settings: ChassisSettings, on_change: Callable[[ChassisSettings, ChassisSettings], Awaitable[None]]
) -> "Reloading[ChassisSettings] | None":
    """The part that reads the secret files again when they change; None if there was no directory of them."""
    if given_for(settings).secrets_dir is None:
        return None
    from .configuration.reloading import Reloading

    return Reloading(settings, type(settings).from_given, on_change)


def use_settings(after: ChassisSettings, *, threads: Threads, load_shedder: LoadShedder | None) -> None:
    """Use changed settings in the parts that the functions above have made. They have no meaning for other parts."""
    threads.resize(after.threads)
    if load_shedder is not None:
        load_shedder.set_limits(after.max_requests, queue_seconds=after.queue_seconds)


def distribution_of(settings: type[ChassisSettings]) -> str:
    """The name of the distribution that a settings class belongs to, derived from the name of its package."""
    package = settings.__module__.partition(".")[0]
    return "service" if package in (__package__, "__main__") else package.replace("_", "-")


def installed_version(distribution: str) -> str:
    """The version of an installed distribution; `unknown` if it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "unknown"
