"""`PostgresRateLimitStore`: rate limits of all instances of a service, in the table `rate_limits`."""

from ..api.rate_limit import Quota, RateLimit
from ..app import App
from ..periodic_options import IDLE, Idle
from .queries import AnyDatabase

TABLE = """
CREATE UNLOGGED TABLE rate_limits (
    policy text NOT NULL,
    caller text NOT NULL,
    full_at bigint NOT NULL,
    is_allowed boolean NOT NULL,
    PRIMARY KEY (policy, caller)
);
CREATE INDEX ix_rate_limits_full_at ON rate_limits (full_at);
"""
"""The table, for services without `chassis.migrations`.

`full_at` is the time at which the bucket of a caller is full again, in nanoseconds since 1970. The table is unlogged,
because it is written for each request, and a crash of the database may empty it.
"""
# $3 is the interval of a token, and $4 the capacity of the bucket, both in nanoseconds. `excluded.full_at - $3` is now.
TAKE = """
INSERT INTO rate_limits AS held (policy, caller, full_at, is_allowed)
VALUES ($1, $2, (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint + $3::bigint, true)
ON CONFLICT (policy, caller) DO UPDATE SET
    full_at = CASE
        WHEN greatest(held.full_at, excluded.full_at - $3) + $3 <= excluded.full_at - $3 + $4::bigint
        THEN greatest(held.full_at, excluded.full_at - $3) + $3
        ELSE held.full_at END,
    is_allowed = greatest(held.full_at, excluded.full_at - $3) + $3 <= excluded.full_at - $3 + $4
RETURNING is_allowed, full_at - (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint AS ahead_ns
"""
# Rows that another process removes, or that a request holds, are skipped.
CLEAN = """
DELETE FROM rate_limits WHERE (policy, caller) IN (
    SELECT policy, caller FROM rate_limits
    WHERE full_at < (extract(epoch FROM clock_timestamp()) * 1000000000)::bigint
    ORDER BY full_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
"""
CLEAN_ROWS = 10_000
CLEAN_SECONDS = 60.0


def add_rate_limit_store(app: App, database: AnyDatabase) -> "PostgresRateLimitStore":
    """Count requests for rate limits in the database, so that all instances share the limits.

        database = add_database(app, settings)
        add_rate_limit_store(app, database)

    It needs the table `rate_limits`, see `TABLE`. Each limited request costs one statement for each of its limits. Full
    buckets are removed in the background.
    """
    store = PostgresRateLimitStore(database)
    app.configure_rate_limits(store=store)
    app.every(CLEAN_SECONDS, store.clean, name="clean the rate limits", first_after=CLEAN_SECONDS, once_per="pod")
    return store


class PostgresRateLimitStore:
    """A `RateLimitStore` whose clock is that of the database."""

    def __init__(self, database: AnyDatabase) -> None:
        self._database = database

    async def take(self, limit: RateLimit, caller: str) -> Quota:
        """Take a token from the bucket of `caller`, unless it is empty. Raises the errors of `Queries`."""
        queries = self._database.queries
        row = await queries.fetchrow(TAKE, limit.name, caller, limit.interval_ns, limit.capacity_ns)
        if row is None:
            raise RuntimeError("PostgreSQL returned no row for a rate limit")
        return limit.after(max(row["ahead_ns"], 0), is_allowed=row["is_allowed"])

    async def clean(self) -> Idle | None:
        """Remove the buckets that are full."""
        status = await self._database.queries.execute(CLEAN, CLEAN_ROWS)
        return IDLE if status == "DELETE 0" else None
