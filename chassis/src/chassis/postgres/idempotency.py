"""`PostgresIdempotencyStore`: responses to requests with an idempotency key, in the table `idempotency_keys`."""

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
