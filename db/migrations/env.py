"""Alembic's environment: migrates over a given connection (see :mod:`db.schema`)."""

from __future__ import annotations

from alembic import context

from db.tables import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite alters a table by rebuilding it
    transactional_ddl=True,  # SQLite transactions include DDL here: a killed migration leaves the old version
)
with context.begin_transaction():
    context.run_migrations()
