"""`PostgresIdempotencyStore`: responses to requests with an idempotency key, in the table `idempotency_keys`."""

import asyncio
import json
from collections.abc import Hashable, Mapping
from contextlib import suppress
from contextvars import Context
from time import monotonic
from typing import Any

import asyncpg
import structlog
from structlog.typing import FilteringBoundLogger

from ..api.idempotency_store import IdempotentRequest, KeyInUseError, KeyReusedError, StoredResponse
from .errors import DatabaseError, DatabaseUnavailableError
from .queries import AnyDatabase, Queries

log: FilteringBoundLogger = structlog.get_logger()

TABLE = """
CREATE TABLE idempotency_keys (
    key text PRIMARY KEY,
    fingerprint text NOT NULL,
    attempt text NOT NULL,
    expires_at timestamptz NOT NULL,
    status integer,
    headers jsonb,
    body bytea
);
CREATE INDEX ix_idempotency_keys_expires_at ON idempotency_keys (expires_at);
"""
"""The table, for services without `chassis.migrations`.

`status` is null while the request is in progress; then `expires_at` is the end of its lock. `headers` is a list of
pairs of texts. `body` is null if the response is complete and cannot be replayed.
"""
BEGIN = """
INSERT INTO idempotency_keys AS stored (key, fingerprint, attempt, expires_at)
VALUES ($1, $2, $3, now() + make_interval(secs => $4))
ON CONFLICT (key) DO UPDATE SET fingerprint = excluded.fingerprint, attempt = excluded.attempt,
    expires_at = excluded.expires_at, status = NULL, headers = NULL, body = NULL
WHERE stored.expires_at <= now()
RETURNING true
"""
# The text of `headers`, because SQLAlchemy's connections decode jsonb and those of asyncpg do not.
READ = """
SELECT fingerprint, status, headers::text AS headers, body FROM idempotency_keys WHERE key = $1 AND expires_at > now()
"""
STORE = """
UPDATE idempotency_keys
SET status = $3, headers = $4::text::jsonb, body = $5, expires_at = now() + make_interval(secs => $6)
WHERE key = $1 AND attempt = $2 AND status IS NULL
"""
RELEASE = "DELETE FROM idempotency_keys WHERE key = ANY($1::text[]) AND attempt = ANY($2::text[]) AND status IS NULL"
# While a request is in progress, its process renews the lock. If the process dies, the lock expires.
LEASE_SECONDS = 20.0
RENEW_SECONDS = 5.0
# A row that a transaction holds is about to be complete.
RENEW = """
UPDATE idempotency_keys SET expires_at = now() + make_interval(secs => $3)
WHERE (key, attempt) IN (
    SELECT key, attempt FROM idempotency_keys
    WHERE key = ANY($1::text[]) AND attempt = ANY($2::text[]) AND status IS NULL FOR UPDATE SKIP LOCKED
)
"""
MAX_UNRELEASED = 10_000  # beyond it, the lock of the oldest one expires
RELEASE_SECONDS = 0.5  # between two attempts while the database is not available
# Rows that another process removes are skipped.
CLEAN = """
DELETE FROM idempotency_keys WHERE key IN (
    SELECT key FROM idempotency_keys WHERE expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
"""
CLEAN_ROWS = 1_000
CLEAN_SECONDS = 60.0
BEGIN_ATTEMPTS = 3


class PostgresIdempotencyStore:
    """Stores responses in the database of the service, so that all its instances see them.

        database = add_database(app, settings)
        app.provide(IdempotencyStore, PostgresIdempotencyStore(database))

    If the method has a transaction of this database, or an `AsyncSession`, the response is stored in it: both are
    committed, or neither. Expired rows are removed in the background, in small batches.

    The process renews the lock of a request in progress, for at most `lock_seconds`. If the process dies, the lock
    expires after `LEASE_SECONDS`.

    It needs the table `idempotency_keys`, see `TABLE`. Raises the errors of `Queries`.
    """

    def __init__(self, database: AnyDatabase) -> None:
        self._database = database
        self._recorded: set[str] = set()
        """The attempts whose response is in the transaction of their method."""
        self._held: dict[str, tuple[str, float]] = {}
        """The attempts in progress, their keys, and the end of their locks in monotonic seconds."""
        self._renewing: asyncio.Task[None] | None = None
        self._cleaned_at = monotonic()
        self._cleaning: asyncio.Task[None] | None = None
        self._unreleased: dict[str, str] = {}
        """Attempts that were abandoned while the database was not available, and their keys."""
        self._releasing: asyncio.Task[None] | None = None

    async def begin(self, request: IdempotentRequest, lock_seconds: float) -> StoredResponse | None:
        self._clean_sometimes()
        queries = self._database.queries
        for _ in range(BEGIN_ATTEMPTS):
            lease = min(lock_seconds, LEASE_SECONDS)
            if await queries.fetchval(BEGIN, request.key, request.fingerprint, request.attempt, lease):
                self._hold(request, monotonic() + lock_seconds)
                return None
            row = await queries.fetchrow(READ, request.key)
            if row is None:
                continue  # it was released, or has expired, in between
            if row["fingerprint"] != request.fingerprint:
                raise KeyReusedError
            if row["status"] is None:
                raise KeyInUseError
            pairs = json.loads(row["headers"])
            headers = tuple((name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs)
            return StoredResponse(row["status"], headers, row["body"])
        raise KeyInUseError

    async def record(
        self,
        request: IdempotentRequest,
        response: StoredResponse,
        keep_seconds: float,
        provided: Mapping[Hashable, Any],
    ) -> None:
        transaction = self._database.transaction_in(provided)
        if transaction is None:
            return
        if not await _store(transaction, request, response, keep_seconds):
            raise KeyInUseError  # the lock has expired, and another attempt has begun
        self._recorded.add(request.attempt)

    async def complete(self, request: IdempotentRequest, response: StoredResponse, keep_seconds: float) -> None:
        self._let_go(request)
        if request.attempt in self._recorded:
            self._recorded.discard(request.attempt)
            return
        await _store(self._database.queries, request, response, keep_seconds)

    async def abandon(self, request: IdempotentRequest) -> None:
        """Release the key. If a commit was interrupted after it succeeded, the response stays.

        While the database is not available, this returns, and the key is released in the background.
        """
        self._let_go(request)
        self._recorded.discard(request.attempt)
        try:
            await self._database.queries.execute(RELEASE, [request.key], [request.attempt])
        except DatabaseUnavailableError:  # is in the log
            if len(self._unreleased) >= MAX_UNRELEASED:
                self._unreleased.pop(next(iter(self._unreleased)))
            self._unreleased[request.attempt] = request.key
            if self._releasing is None:
                self._releasing = asyncio.create_task(
                    self._release_later(), name="idempotency release", context=Context()
                )

    def _hold(self, request: IdempotentRequest, until: float) -> None:
        self._held[request.attempt] = (request.key, until)
        if self._renewing is None:
            self._renewing = asyncio.create_task(self._renew(), name="idempotency renewal", context=Context())

    def _let_go(self, request: IdempotentRequest) -> None:
        self._held.pop(request.attempt, None)
        if not self._held and self._renewing is not None:
            self._renewing.cancel()
            self._renewing = None

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            now = monotonic()
            keys = {attempt: key for attempt, (key, until) in self._held.items() if until > now}
            try:
                await self._database.queries.execute(RENEW, [*keys.values()], [*keys], LEASE_SECONDS)
            except (DatabaseError, asyncpg.PostgresError, RuntimeError) as error:
                log.warning("locks of idempotency keys not renewed", reason=f"{type(error).__name__}: {error}")

    async def _release_later(self) -> None:
        try:
            while attempts := dict(self._unreleased):
                await asyncio.sleep(RELEASE_SECONDS)
                with suppress(DatabaseUnavailableError):
                    await self._database.queries.execute(RELEASE, [*attempts.values()], [*attempts])
                    for attempt in attempts:
                        self._unreleased.pop(attempt, None)
        except (DatabaseError, asyncpg.PostgresError, RuntimeError) as error:  # the last one: the database is closed
            log.warning("idempotency keys not released", reason=f"{type(error).__name__}: {error}")
        finally:
            self._releasing = None

    def _clean_sometimes(self) -> None:
        now = monotonic()
        if now - self._cleaned_at < CLEAN_SECONDS or self._cleaning is not None:
            return
        self._cleaned_at = now
        # It does not belong to the request that happens to begin it: an empty context has no trace and no deadline.
        self._cleaning = asyncio.create_task(self._clean(), name="idempotency clean-up", context=Context())

    async def _clean(self) -> None:
        try:
            while await self._database.queries.execute(CLEAN, CLEAN_ROWS) == f"DELETE {CLEAN_ROWS}":
                pass
        except (DatabaseError, asyncpg.PostgresError, RuntimeError) as error:  # the last one: the database is closed
            log.warning("expired idempotency keys not removed", reason=f"{type(error).__name__}: {error}")
        finally:
            self._cleaning = None


async def _store(queries: Queries, request: IdempotentRequest, response: StoredResponse, keep_seconds: float) -> bool:
    """Whether the response was stored: the attempt still has the key."""
    headers = json.dumps([[name.decode("latin-1"), value.decode("latin-1")] for name, value in response.headers])
    status = await queries.execute(
        STORE, request.key, request.attempt, response.status, headers, response.body, keep_seconds
    )
    return status == "UPDATE 1"
