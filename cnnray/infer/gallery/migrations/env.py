"""Run by Alembic: applies the steps over the connection that `cnnray.infer.gallery.database` gives."""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table=context.config.attributes["version_table"],
)
context.run_migrations()
