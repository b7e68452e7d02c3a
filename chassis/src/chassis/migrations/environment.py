"""The function that a service's `migrations/env.py` calls. Alembic runs that file for each command."""

from time import perf_counter
from typing import Any

import structlog
from alembic import context
from alembic.runtime.migration import MigrationInfo
from structlog.typing import FilteringBoundLogger

from .errors import AheadError

log: FilteringBoundLogger = structlog.get_logger()


def run(**options: Any) -> None:
    """Run the migrations of the current command. `options` are those of Alembic's `context.configure`.

    Each migration is one transaction. Types and defaults of columns are compared. Raises `AheadError` if the database
    has a revision that the code does not have.
    """
    attributes = context.config.attributes
    options = {
        "target_metadata": attributes.get("metadata"),
        "compare_type": True,
        "compare_server_default": True,
        "transaction_per_migration": True,
        **options,
    }
    if context.is_offline_mode():
        context.configure(dialect_name="postgresql", literal_binds=True, **options)
    else:
        began = perf_counter()

        def log_applied(ctx: object, step: MigrationInfo, heads: object, run_args: object) -> None:
            nonlocal began
            now = perf_counter()
            event = "migration applied" if step.is_upgrade else "migration reverted"
            attributes.setdefault("applied", []).append(step.up_revision_id)
            log.info(
                event,
                revision=step.up_revision_id,
                name=getattr(step.up_revision, "doc", None),
                seconds=round(now - began, 3),
            )
            began = now

        connection = attributes["connection"]
        connection.rollback()  # Alembic would not commit in a transaction that is open here
        context.configure(connection=connection, on_version_apply=log_applied, **options)
        _check_known()
        connection.rollback()
    with context.begin_transaction():
        context.run_migrations()


def _check_known() -> None:
    known = {script.revision for script in context.script.walk_revisions()}
    unknown = tuple(head for head in context.get_context().get_current_heads() if head not in known)
    if unknown:
        raise AheadError(unknown)
