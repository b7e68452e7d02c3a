"""The state of a client as operators see it."""

from time import monotonic
from typing import Any

from .balancer import Balancer
from .breaker import CircuitBreaker
from .bulkhead import Bulkhead
from .replicas import Replica
from .settings import ClientSettings


def state_of(
    name: str, settings: ClientSettings, breaker: CircuitBreaker, bulkhead: Bulkhead, balancer: Balancer
) -> dict[str, Any]:
    """One dependency, in JSON's types."""
    now = monotonic()
    return {
        "name": name,
        "base_url": settings.base_url,
        "breaker": str(breaker.state),
        "seconds_until_probe": round(breaker.seconds_until_probe, 3),
        "in_progress": bulkhead.in_progress,
        "max_in_progress": settings.max_in_progress,
        "waiting": bulkhead.waiting,
        "replicas": [_replica(replica, now) for replica in balancer.replicas],
    }


def _replica(replica: Replica, now: float) -> dict[str, Any]:
    successes, failures = replica.recent_calls(now)
    return {
        "address": f"{replica.address.host}:{replica.address.port}",
        "in_progress": replica.in_progress,
        "latency_ms": round(replica.latency * 1000, 3),
        "recent_successes": round(successes, 1),
        "recent_failures": round(failures, 1),
        "is_ejected": replica.is_ejected,
        "ejected_for": replica.reason if replica.is_ejected else None,
        "is_near": replica.is_near,
    }
