"""Runs migrations on the URL the caller names, or on the service's own settings."""

from alembic import context

from service.settings import Settings
from service.store.session import make_engine
from service.store.tables import Base


def _run() -> None:
    url = context.config.attributes.get("database_url") or Settings().resolved_database_url
    engine = make_engine(url)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
        with context.begin_transaction():
            context.run_migrations()
        connection.commit()
    engine.dispose()


_run()
