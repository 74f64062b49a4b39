"""Alembic's entry: runs on the connection, and with the names of the logins, that `questlog migrate` hands over."""

from alembic import context

context.configure(connection=context.config.attributes["connection"], transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
