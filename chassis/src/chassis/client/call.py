"""`Call`: a call as its caller has made it, before its first attempt."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from time import monotonic

from opentelemetry.context import Context, get_current

# RFC 9110, section 9.2: several identical requests have the effect of one.
IDEMPOTENT_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PUT", "QUERY", "TRACE"})
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "QUERY"})
IDEMPOTENCY_KEY = "idempotency-key"


@dataclass(slots=True)
class Call:
    """A request to a dependency. `route` is its path as written in the code, which logs and spans show."""

    method: str
    route: str
    target: str
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes | None
    expect: Collection[int]
    """Statuses that are no failure, beside 2xx."""
    seconds: float
    """The time of the call, with all of its attempts."""
    is_stream: bool = False
    """Whether the body of the response is read by the caller, in parts."""
    context: Context = field(default_factory=get_current)
    """The context that the call belongs to, as that of a request."""
    began: float = field(default_factory=monotonic)
    """Monotonic seconds."""
    attempts: int = 0
    """The number of requests that were sent."""
    status: int = 0
    """The status of the last response; 0 without one."""

    @property
    def is_idempotent(self) -> bool:
        """Whether the request may be processed twice."""
        return self.method in IDEMPOTENT_METHODS or IDEMPOTENCY_KEY in self.headers

    def expects(self, status: int) -> bool:
        """Whether `status` is a success for the caller."""
        return 200 <= status < 300 or status in self.expect
