"""Alembic's entry: migrates over the connection that the tool hands in, within its transaction."""

from alembic import context

from autotune.store.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    render_as_batch=True,  # SQLite changes a table by copying it
)
with context.begin_transaction():
    context.run_migrations()
