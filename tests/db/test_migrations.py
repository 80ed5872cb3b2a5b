from __future__ import annotations

from dataclasses import replace

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import inspect

from db.connection import make_engine, to_url
from db.exceptions import StoreOutdatedError
from db.records import CampaignRecord, FailureRecord, LabelRecord
from db.schema import alembic_config
from db.states import FailureReason
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


def test_labels_of_an_older_store_are_current_and_may_be_withdrawn(store_url, structures, make_material):
    """Migration 0003, there and back: nothing of a label is lost."""
    url = to_url(store_url)
    with Store.open(store_url, create=True, structures=structures) as store:
        store.create_campaign(CampaignRecord("test", "min", "kappa_300K"))
        store.add_materials([make_material("m1"), make_material("m2")])
        for value in (1.0, 2.0):
            store.add_labels([LabelRecord(id_, "kappa_300K", value, "W/(m K)", "dft") for id_ in ("m1", "m2")])
        before = store.labels(current_only=False)
    engine = make_engine(url, 1.0, foreign_keys=False)
    with engine.execution_options(writes=True).begin() as connection:
        command.downgrade(alembic_config(connection), "0002")
        assert not {"withdrawal", "withdrawn_at"} & {c["name"] for c in inspect(connection).get_columns("label")}
    engine.dispose()
    with pytest.raises(StoreOutdatedError, match=r"0002.*kappascout db upgrade"):
        Store.open(store_url, structures=structures)
    assert Store.upgrade(store_url, structures=structures) == ("0002", SCHEMA_VERSION)
    with Store.open(store_url, structures=structures) as store:
        assert store.labels(current_only=False) == before
        assert [label.value for label in store.labels()] == [2.0, 2.0]
        (gone,) = store.withdraw_labels([store.labels()[0].id], "me", "wrong")
        assert [label.material_id for label in store.labels()] == ["m2"]
        assert gone.withdrawn_reason == "wrong"


def test_failures_of_an_older_store_stand_and_may_be_voided(store_url, structures, make_material):
    """Migration 0004, there and back: what labelers calculated here is of the crystal, other reasons stay."""
    url = to_url(store_url)
    given = [("timed_out", "phono3py"), ("calculator_error", ""), ("timed_out", "agl"), ("calculator_error", "phonons")]
    with Store.open(store_url, create=True, structures=structures) as store:
        store.create_campaign(CampaignRecord("test", "min", "kappa_300K"))
        store.add_materials([make_material("m1")])
        about = ("m1", "kappa_300K", "dft")
        store.add_failures(FailureRecord(*about, FailureReason[r.upper()], method=m, cost=1.0) for r, m in given)
        before = store.failures()
        store.void_failures([before[0].id], "me", "again")
    engine = make_engine(url, 1.0, foreign_keys=False)
    with engine.execution_options(writes=True).begin() as connection:
        command.downgrade(alembic_config(connection), "0003")
        assert not {"voiding", "voided_at"} & {c["name"] for c in inspect(connection).get_columns("failure")}
    engine.dispose()
    with pytest.raises(StoreOutdatedError, match=r"0003.*kappascout db upgrade"):
        Store.open(store_url, structures=structures)
    assert Store.upgrade(store_url, structures=structures) == ("0003", SCHEMA_VERSION)
    with Store.open(store_url, structures=structures) as store:
        assert [one.reason for one in store.failures()] == ["timed_out", "calculator_error", "too_long", "crashed"]
        assert [replace(a, reason=b.reason) for a, b in zip(store.failures(), before, strict=True)] == before
        store.void_failures([before[1].id], "me", "again")
        assert [one.id for one in store.failures()] == [one.id for one in before if one.id != before[1].id]


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
