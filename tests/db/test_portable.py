"""A campaign leaves one store and enters another: nothing is lost, whatever the two databases are."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import insert

from db import portable
from db.connection import make_engine, to_url
from db.exceptions import InvalidRecordError, StoreError, StoreFromNewerVersionError, StoreOutdatedError
from db.portable import load_campaign
from db.records import (
    ArtifactRecord,
    CopyRecord,
    FailureRecord,
    LabelRecord,
    MaterialRecord,
    MemberRecord,
    ModelRecord,
    QueueEntryRecord,
    RejectionRecord,
)
from db.schema import alembic_config, upgrade
from db.states import FailureReason, QueueState, RoundState
from db.store import Store
from db.tables import SCHEMA_VERSION

Dump = list[tuple[str, list[dict[str, Any]]]]


@pytest.fixture
def other_url(request: pytest.FixtureRequest, store_url: str, tmp_path: Path) -> str:
    """Give a place for the campaign in the database that it does not come from."""
    if store_url.startswith("postgresql"):
        return str(tmp_path / "other.sqlite")
    url: str = request.getfixturevalue("postgresql_url")
    return url


def fill(store: Store, make_material: Callable[..., MaterialRecord]) -> None:
    """Give a campaign something of everything, with references forwards and backwards."""
    ids = store.add_materials(make_material(f"m{i}", gap=i / 3, stable=True, phase='"x"') for i in range(5)).added
    store.link_copies([CopyRecord("m1", make_material("copy", "h", "ü.cif", density=1))])
    store.add_rejections([RejectionRecord("a.cif", "x", "no_structure", "nothing in it", "look")])
    for value in (1.0, 2.0, 0.1 + 0.2):
        store.add_labels([LabelRecord(id_, "kappa_300K", value, "W/(m K)", "dft", 300.0) for id_ in ids])
    store.withdraw_labels([store.labels()[-1].id or 0], "Ada", "a slip")
    store.add_failures([FailureRecord("m2", "kappa_300K", "dft", FailureReason.TIMED_OUT, cost=3.5)])
    root = ModelRecord("root", seeds=(1, 2**40), members=(MemberRecord(0, 7, "a/b", "c" * 64, {"rmse": 1e-300}),))
    store.add_model(root)
    store.start_round({"settings": {"seed": 7, "none": None}})
    store.finish_step(1, RoundState.TRAINED, model=ModelRecord("child", "root"), metrics_before={"mae": 0.1})
    store.finish_step(1, RoundState.SCORED, predictions=ArtifactRecord("p", "d" * 64, 5))
    queue = [QueueEntryRecord(i, id_, 0.5, details={"k": [1]}) for i, id_ in enumerate(ids, 1)]
    store.finish_step(1, RoundState.QUEUED, queue=queue)
    store.move([store.queue()[0].id or 0], QueueState.APPROVED, "Ada", "ok")


def everything(store: Store) -> list[Any]:
    """All that the finders give, and without the numbers of rows."""
    plain = [list(store.materials()), store.rejections(), store.models(), store.rounds(), store.campaign()]
    labels = [vars(label) | {"id": 0, "superseded_by": 0} for label in store.labels(current_only=False)]
    failures = [vars(failure) | {"id": 0} for failure in store.failures()]
    return [plain, labels, failures, [vars(entry) | {"id": 0} for entry in store.queue()], store.counts()]


def dumped(store: Store) -> Dump:
    """Read a store out, by way of JSON text."""
    return [(name, [json.loads(json.dumps(row, allow_nan=False)) for row in rows]) for name, rows in store.dump()]


def test_everything_comes_through(store, other_url, structures, make_material, monkeypatch):
    monkeypatch.setattr(portable, "BATCH", 3)
    fill(store, make_material)
    rows = dumped(store)
    written = load_campaign(other_url, rows)
    assert written == {name: len(found) for name, found in rows}
    with Store.open(other_url, structures=structures) as other:
        assert everything(other) == everything(store)
        assert dumped(other) == rows
        assert [m.model_id for m in other.lineage("child")] == ["root", "child"]
        # and it is a store to go on with
        assert other.add_materials([make_material("new")]).added == ["new"]
        other.add_labels([LabelRecord("m1", "kappa_300K", 9.0, "W/(m K)", "dft", 300.0)])
        other.move([other.queue()[0].id], QueueState.RUNNING, "test")


def test_beside_other_campaigns_rows_are_numbered_anew(
    store, store_url, structures, make_material, make_campaign, tmp_path
):
    fill(store, make_material)
    with make_campaign(tmp_path / "guest.sqlite", "guest") as guest:
        fill(guest, make_material)
        guest.move([guest.queue()[0].id], QueueState.RUNNING, "guest")
        before = everything(store)
        with pytest.raises(InvalidRecordError, match="'test'"):
            load_campaign(store_url, dumped(store))
        load_campaign(store_url, guest.dump())
        with Store.open(store_url, campaign="guest", structures=structures) as moved:
            assert everything(moved) == everything(guest)
            current, old = moved.labels()[0], moved.labels(current_only=False)[0]
            assert old.superseded_by is not None
            assert old.id < old.superseded_by < current.id
            moved.add_labels([LabelRecord("m1", "kappa_300K", 9.0, "W/(m K)", "dft", 300.0)])
    with Store.open(store_url, campaign="test", structures=structures) as same:
        assert everything(same) == before
        same.add_materials([make_material("new")])


def spoil(rows: Dump, table: str, change: Callable[[list[dict[str, Any]]], Any]) -> Iterator[tuple[str, Any]]:
    for name, found in rows:
        if name == table:
            change(found)
        yield name, found


@pytest.mark.parametrize(
    ("table", "change", "words"),
    [
        ("label", lambda rows: rows[0].pop("unit"), "a row of label has the columns"),
        ("label", lambda rows: rows[0].update(nonsense=1), "expected id, "),
        ("campaign", lambda rows: rows.clear(), "not the rows of one campaign|FOREIGN KEY|foreign key"),
        ("queue_change", lambda rows: rows[0].update(entry_pk=999), "FOREIGN KEY|foreign key"),
    ],
)
def test_rows_that_do_not_fit_leave_nothing(
    store, store_url, make_material, make_campaign, tmp_path, table, change, words
):
    with make_campaign(tmp_path / "guest.sqlite", "guest") as guest:
        fill(guest, make_material)
        rows = dumped(guest)
    before = store.counts()
    with pytest.raises(StoreError, match=words):
        load_campaign(store_url, spoil(rows, table, change))
    assert [campaign.name for campaign in store.campaigns()] == ["test"]
    assert store.counts() == before


def test_tables_that_are_missing_or_unknown(store_url, store, make_campaign, tmp_path):
    with make_campaign(tmp_path / "guest.sqlite", "guest") as guest:
        rows = dumped(guest)
    with pytest.raises(InvalidRecordError, match="rejection"):
        load_campaign(store_url, [pair for pair in rows if pair[0] != "rejection"])
    with pytest.raises(InvalidRecordError, match="'elsewhere'"):
        load_campaign(store_url, [*rows, ("elsewhere", [])])


def test_rows_of_every_older_version_are_upgraded(store_url, tmp_path):
    with Store.open(tmp_path / "new.sqlite", create=True) as new, new.session() as session:
        script = ScriptDirectory.from_config(alembic_config(session.connection()))
    for revision in script.walk_revisions():
        old = to_url(tmp_path / f"{revision.revision}.sqlite")
        upgrade(old, 1.0, revision.revision)
        engine = make_engine(old, 1.0)
        name = f"campaign of {revision.revision}"
        with engine.begin() as connection:
            (table,) = [table for table in portable._tables(connection) if table.name == "campaign"]
            values = {"name": name, "goal": "min", "property": "kappa_300K", "settings": {}, "seed": 1}
            connection.execute(insert(table), values | {"state": "active", "created_at": "2026-01-01"})
        engine.dispose()
        source = portable.Portable(old, 1.0)
        load_campaign(store_url, source.dump(), revision.revision)
        source.close()
        with Store.open(store_url, campaign=name) as store:
            assert store.campaign().seed == 1


def test_versions_that_do_not_fit(store, store_url):
    with pytest.raises(StoreFromNewerVersionError, match="9999"):
        load_campaign(store_url, [], "9999")
    with store.session(write=True) as session:
        session.connection().exec_driver_sql("UPDATE alembic_version SET version_num = '0000'")
    with pytest.raises(StoreOutdatedError, match=SCHEMA_VERSION):
        load_campaign(store_url, [])
