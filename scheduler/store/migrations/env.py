"""How alembic runs here: on a connection that `scheduler.store.migrate` hands over."""

from alembic import context

from scheduler.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
