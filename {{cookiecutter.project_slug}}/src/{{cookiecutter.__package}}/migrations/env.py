"""Alembic runs this file for each command, such as `make migrate`."""

from chassis.migrations.environment import run

run()  # options of Alembic's `context.configure` go here, such as include_object
