"""The tables `outbox` and `processed_messages` of the chassis."""

from chassis.migrations import inbox_table, outbox_table

from ..tables import Base

outbox_table(Base.metadata)
inbox_table(Base.metadata)
