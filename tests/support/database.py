"""The PostgreSQL server of the core's tests, for the tests of services."""

from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

from bakery import TEMPLATE


def load_postgres_support() -> Any:
    """The module with the server. Its package has the same name as that of these tests, so it is not imported."""
    spec = spec_from_file_location("postgres_support", TEMPLATE / "chassis/tests/support/postgres.py")
    assert spec is not None
    assert spec.loader is not None
    support = module_from_spec(spec)
    spec.loader.exec_module(support)
    return support
