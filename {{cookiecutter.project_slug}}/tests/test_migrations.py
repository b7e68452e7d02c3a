"""Tests of the migrations. `empty_database` is the URL of a new database. The template maintains this file."""

from chassis.migrations.testing import check_agreement, check_round_trips

PACKAGE = "{{ cookiecutter.__package }}"


def test_each_migration_can_be_reverted(empty_database: str) -> None:
    check_round_trips(PACKAGE, empty_database)


def test_migrations_create_the_tables_of_the_code(empty_database: str) -> None:
    check_agreement(PACKAGE, empty_database)
