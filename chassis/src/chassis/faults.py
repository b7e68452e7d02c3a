"""Faults that are injected on purpose, for tests and staging: the rules, and the requests and calls that they hit."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from random import random
from time import monotonic
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from structlog.typing import FilteringBoundLogger

log: FilteringBoundLogger = structlog.get_logger()

LATENCY, ERROR, ABORT, REFUSE = "latency", "error", "abort", "refuse"
MAX_RULES = 100
ANY_VALUE = "*"

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Path = Annotated[str, StringConstraints(pattern="^/", max_length=2000)]


class FaultRule(BaseModel):
    """Which requests a fault hits, and what happens to them. Conditions that are not set hit every request.

        FaultRule(route="/orders/{order_id}", share=0.3, status=503)

    `client` makes it a rule for the calls of that client; otherwise it is for the requests that the service receives.
    """

    # Few services inject faults. Without `defer_build`, the start of all others would take longer.
    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    client: Name | None = Field(default=None, description="Name of the client whose calls are hit.")
    route: Path | None = Field(default=None, description="Template of the route, as access lines have it.")
    path_prefix: Path | None = Field(default=None, description="Beginning of the path.")
    method: Annotated[str, StringConstraints(to_upper=True, min_length=1, max_length=20)] | None = Field(
        default=None, description="HTTP method."
    )
    headers: dict[Annotated[str, StringConstraints(to_lower=True, min_length=1, max_length=200)], str] = Field(
        default={}, max_length=10, description="Header fields by name. `*` stands for any value."
    )
    share: float = Field(default=1.0, ge=0, le=1, description="Share of the requests that are hit.")
    latency_seconds: float = Field(
        default=0.0, ge=0, le=300, description="Delay before the request is handled or sent."
    )
    jitter_seconds: float = Field(
        default=0.0, ge=0, le=300, description="Upper bound of a random addition to the delay."
    )
    status: int | None = Field(
        default=None, ge=400, le=599, description="Status of the response in place of the real one."
    )
    retry_after_seconds: int | None = Field(
        default=None, ge=0, le=86_400, description="`Retry-After` of that response."
    )
    abort: bool = Field(default=False, description="Whether the connection is closed without a response.")
    refuse: bool = Field(default=False, description="Whether the other service cannot be reached: a call is not sent.")
    seconds: float | None = Field(
        default=None, gt=0, le=604_800, description="Time after which the rule is off by itself."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if not self.kinds:
            raise ValueError("the rule injects nothing; set latency_seconds, jitter_seconds, status, abort or refuse")
        if (self.status is not None) + self.abort + self.refuse > 1:
            raise ValueError("status, abort and refuse exclude each other; set one of them")
        if self.retry_after_seconds is not None and self.status is None:
            raise ValueError("retry_after_seconds is for a response; set status too")
        if self.refuse and self.client is None:
            raise ValueError("refuse is for calls; set client too, or use abort")
        if self.route is not None and self.client is not None:
            raise ValueError("route is for requests that the service receives; use path_prefix for calls")
        return self

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of faults that the rule injects, as the metric names them."""
        found = {
            LATENCY: self.latency_seconds + self.jitter_seconds > 0,
            ERROR: self.status is not None,
            ABORT: self.abort,
            REFUSE: self.refuse,
        }
        return tuple(kind for kind, is_injected in found.items() if is_injected)


class Hit(NamedTuple):
    """A request or a call, as the rules look at it. Its parts are functions where they are expensive to find."""

    method: str
    path: str
    header_values: Callable[[str], Sequence[str]]
    """The values of a field, whose name is in lower case."""
    client: str | None = None
    route: Callable[[], str] | None = None
    """The template of the route."""


class Fault(NamedTuple):
    """The fault of one request or call."""

    kinds: tuple[str, ...]
    latency_seconds: float
    status: int | None
    retry_after_seconds: int | None


@dataclass(slots=True)
class ActiveRule:
    """A rule that is in effect."""

    rule: FaultRule
    expires_at: float | None
    """Monotonic seconds; None if it stays."""
    injected: int = 0
    """The number of requests that it has hit."""

    def document(self, now: float) -> dict[str, Any]:
        """The rule as `GET /faults` shows it."""
        remaining = None if self.expires_at is None else round(max(0.0, self.expires_at - now), 3)
        return {"rule": plain(self.rule), "remaining_seconds": remaining, "injected": self.injected}


class Faults:
    """The rules that are in effect. They are changed while the service runs, and each change is logged."""

    def __init__(
        self,
        registry: CollectorRegistry | None = None,
        *,
        clock: Callable[[], float] = monotonic,
        random: Callable[[], float] = random,
        log_change: Callable[..., object] | None = None,
    ) -> None:
        """`random` returns numbers from 0 up to 1, without 1.

        `log_change` logs a change with the keywords `by`, `rules` and `before`. The default is a warning.
        """
        self.clients: set[str] = set()
        """The names of the clients into whose calls faults can be injected."""
        self._active: list[ActiveRule] = []
        self._clock = clock
        self._random = random
        self._log_change = log_change or partial(log.warning, "faults changed")
        self._timer: asyncio.TimerHandle | None = None
        self._injected = Counter("injected_faults", "Faults that were injected.", ["kind"], registry=registry)
        for kind in (LATENCY, ERROR, ABORT, REFUSE):
            self._injected.labels(kind)
        rules = Gauge("injected_fault_rules", "Rules that inject faults now.", registry=registry)
        rules.set_function(lambda: len(self._in_effect()))

    @property
    def rules(self) -> list[FaultRule]:
        """The rules that are in effect."""
        return [active.rule for active in self._in_effect()]

    def documents(self) -> list[dict[str, Any]]:
        """The rules that are in effect, each with the time that remains and the number of requests that it has hit."""
        now = self._clock()
        return [active.document(now) for active in self._in_effect()]

    def announce(self) -> None:
        """Log that faults can be injected, at the start of the service."""
        log.warning("fault injection is on", clients=sorted(self.clients))

    def set(self, rules: Sequence[FaultRule], *, by: str = "code") -> None:
        """Replace all rules; the first one that hits a request wins. `by` is for the log: who has changed them.

        Raises `UnknownClientError` for a rule of a client without faults.
        """
        for rule in rules:
            if rule.client is not None and rule.client not in self.clients:
                raise UnknownClientError(rule.client, sorted(self.clients))
        now, before = self._clock(), self.rules
        self._active = [ActiveRule(rule, None if rule.seconds is None else now + rule.seconds) for rule in rules]
        self._changed(before, by)
        self._set_timer()

    def clear(self, *, by: str = "code") -> None:
        """Inject nothing any more."""
        self.set([], by=by)

    def choose(self, hit: Hit) -> Fault | None:
        """The fault for a request or a call; None for most. It is counted."""
        for active in self._in_effect():
            rule = active.rule
            if matches(rule, hit) and (rule.share >= 1 or self._random() < rule.share):
                active.injected += 1
                for kind in rule.kinds:
                    self._injected.labels(kind).inc()
                latency = rule.latency_seconds + rule.jitter_seconds * self._random()
                return Fault(rule.kinds, latency, rule.status, rule.retry_after_seconds)
        return None

    def _in_effect(self) -> list[ActiveRule]:
        now = self._clock()
        return [active for active in self._active if active.expires_at is None or active.expires_at > now]

    def _set_timer(self) -> None:
        """Log the next expiry. Rules that were set without an event loop expire without a line."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = [active.expires_at for active in self._active if active.expires_at is not None]
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        if due:
            self._timer = loop.call_later(max(0.0, min(due) - self._clock()), self._expire)

    def _expire(self) -> None:
        remaining = self._in_effect()
        if len(remaining) < len(self._active):
            before = [active.rule for active in self._active]
            self._active = remaining
            self._changed(before, "expiry")
        self._set_timer()

    def _changed(self, before: Sequence[FaultRule], by: str) -> None:
        self._log_change(by=by, rules=[plain(rule) for rule in self.rules], before=[plain(rule) for rule in before])


class UnknownClientError(ValueError):
    """No client of this name takes faults."""

    def __init__(self, name: str, known: Sequence[str]) -> None:
        super().__init__(f"no client {name!r} takes faults; those that do: {', '.join(known) or 'none'}")


def matches(rule: FaultRule, hit: Hit) -> bool:
    """Whether all conditions of the rule are met, its share aside."""
    if rule.client != hit.client or rule.method not in (None, hit.method):
        return False
    if rule.path_prefix is not None and not hit.path.startswith(rule.path_prefix):
        return False
    for name, value in rule.headers.items():
        values = hit.header_values(name)
        if not values or (value != ANY_VALUE and value not in values):
            return False
    return rule.route is None or (hit.route is not None and hit.route() == rule.route)


def plain(rule: FaultRule) -> dict[str, Any]:
    """The members of a rule that are set, for the log and for JSON. Logs redact secret headers by their names."""
    return rule.model_dump(exclude_defaults=True)
