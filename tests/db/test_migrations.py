from __future__ import annotations

from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from db.connection import make_engine, to_url
from db.schema import alembic_config
from db.store import Store
from db.tables import SCHEMA_VERSION, Base


def test_the_version_is_the_last_migration(store):
    with store.session() as session:
        scripts = ScriptDirectory.from_config(alembic_config(session.connection()))
    assert scripts.get_heads() == [SCHEMA_VERSION]
    assert all(len(script.revision) == 4 and script.revision.isdigit() for script in scripts.walk_revisions())


def test_migrating_up_gives_the_tables_of_the_models(store):
    with store.session() as session:
        context = MigrationContext.configure(
            session.connection(), opts={"compare_type": True, "compare_server_default": True}
        )
        assert compare_metadata(context, Base.metadata) == []


def test_down_and_up_again(store_url):
    Store.open(store_url, create=True).close()
    engine = make_engine(to_url(store_url), 1.0, foreign_keys=False)
    with engine.execution_options(writes=True).begin() as connection:
        command.downgrade(alembic_config(connection), "base")
        assert inspect(connection).get_table_names() == ["alembic_version"]
        command.upgrade(alembic_config(connection), "head")
        assert set(inspect(connection).get_table_names()) == {*Base.metadata.tables, "alembic_version"}
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, Base.metadata) == []
    engine.dispose()
