"""Structures in shards: bit for bit, whole or absent, mended when their crystals come again."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import insert, text

from db import materials as verbs
from db import portable
from db import structures as module
from db.connection import make_engine, to_url
from db.exceptions import BrokenShardError, InvalidRecordError, StoreError, StoreNotWritableError
from db.portable import Portable, load_campaign
from db.records import CopyRecord, FailureRecord, LabelRecord, MaterialRecord, QueueEntryRecord, SourceRecord
from db.schema import alembic_config, upgrade
from db.states import FailureReason, RoundState
from db.store import Store
from db.structures import Shards
from db.tables import SCHEMA_VERSION

Make = Callable[..., MaterialRecord]
triple = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3)
structure = st.builds(
    lambda cell, sites: {"lattice": cell, "numbers": [z for z, _ in sites], "frac_coords": [x for _, x in sites]},
    st.lists(triple, min_size=3, max_size=3),
    st.lists(st.tuples(st.integers(1, 118), triple), max_size=5),
)


def files(folder: Path) -> list[str]:
    """Names of what is in the folder, hidden or not."""
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def scaled(record: MaterialRecord, by: float) -> MaterialRecord:
    """Give a material a cell of its own."""
    lattice = [[x * by for x in row] for row in record.structure["lattice"]]
    return replace(record, structure=record.structure | {"lattice": lattice})


@settings(max_examples=30, deadline=None)
@given(wanted=st.lists(structure, min_size=1, max_size=8))
def test_structures_come_back_bit_for_bit(tmp_path_factory: pytest.TempPathFactory, wanted: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("shards")
    sha256 = Shards(folder).write(wanted)
    rows = [*reversed(range(len(wanted))), 0]
    found = Shards(folder).read(sha256, rows)
    assert repr(found) == repr([wanted[i] for i in rows])  # which tells -0.0 from 0.0
    assert files(folder) == [f"{sha256}.parquet"]


@pytest.mark.parametrize(
    "structure",
    [
        {},
        {"lattice": [[1, 0, 0]] * 3, "numbers": [1]},
        {"lattice": [[1, 0, 0]] * 2, "numbers": [1], "frac_coords": [[0, 0, 0]]},
        {"lattice": [[1, 0, 0]] * 3, "numbers": [1, 2], "frac_coords": [[0, 0, 0]]},
        {"lattice": [[1, 0, 0]] * 3, "numbers": [1], "frac_coords": [[0, 0]]},
        {"lattice": [[1, 0, 0]] * 3, "numbers": [1], "frac_coords": [[0, 0, 0]], "charge": 0},
    ],
)
def test_what_is_no_structure_is_refused(make_material: Make, structure: dict[str, Any]) -> None:
    with pytest.raises(InvalidRecordError, match="'m'"):
        replace(make_material("m"), structure=structure)


def test_a_store_without_a_folder_says_so(
    postgresql_url: str, make_campaign: Callable[..., Store], make_material: Make
):
    make_campaign(postgresql_url).close()
    with Store.open(postgresql_url) as store, pytest.raises(StoreError, match="`structures=DIR"):
        store.add_materials([make_material("m1")])


def test_many_small_shards_are_merged(store: Store, structures: Path, make_material: Make, monkeypatch) -> None:
    """Files that were merged stay until shards are merged again, for those who read them meanwhile."""
    for place, name, value in ((module, "FULL", 8), (verbs, "FULL", 8), (verbs, "SMALL", 4), (verbs, "MOST_SMALL", 3)):
        monkeypatch.setattr(place, name, value)
    records = [scaled(make_material(f"m{i}"), 1 + i) for i in range(24)]

    def add(*cuts: int) -> None:
        for start, end in itertools.pairwise(cuts):
            store.add_materials(records[start:end])

    def used() -> set[str]:
        with store.session() as session:
            return {f"{sha256}.parquet" for sha256 in session.scalars(text("SELECT sha256 FROM structure_shard"))}

    add(0, 8, 9, 12, 14)
    store.compact_structures()
    assert len(used()) == 4, "three small ones of six rows together are not many"
    add(14, 15)
    store.compact_structures()
    assert len(used()) == 2
    assert len(files(structures)) == 6
    add(15, 16, 17, 18, 20, 23, 24)
    store.compact_structures()
    assert len(used()) == 4
    assert len(files(structures)) == 4 + 5
    assert [m.structure for m in store.materials()] == [record.structure for record in records]
    wanted = [records[i] for i in (3, 14, 20, 23)]
    assert list(store.structures([r.material_id for r in wanted])) == [(r.content_hash, r.structure) for r in wanted]


def test_orphans_are_swept(store: Store, structures: Path, make_material: Make, monkeypatch) -> None:
    """A process that was killed between the file and the rows, or a transaction that was taken back, leaves one."""
    monkeypatch.setattr(verbs, "MOST_SMALL", 1)

    def fail() -> None:
        with store.transaction():
            store.add_materials([make_material("lost")])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert len(files(structures)) == 1
    assert list(store.materials()) == []
    for i in range(2):
        store.add_materials([scaled(make_material(f"m{i}"), 2 + i)])
    store.compact_structures()
    assert len(files(structures)) == 3  # two that were merged, and the whole one
    assert len(list(store.materials())) == 2


KILLED = """
import os, signal, sys
from pathlib import Path
from db import addition
from db.records import MaterialRecord
from db.store import Store
addition.shard_pk = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
structure = {"lattice": [[4, 0, 0], [0, 4, 0], [0, 0, 4]], "numbers": [11], "frac_coords": [[0, 0, 0]]}
with Store.open(sys.argv[1], structures=Path(sys.argv[2])) as store:
    store.add_materials([MaterialRecord("k", "hash k", "Na", "Na", 221, 1, "bucket", structure)])
"""


def test_killed_between_file_and_rows(store: Store, store_url: str, structures: Path, pool: list[str]) -> None:
    before = list(store.materials())
    process = subprocess.run([sys.executable, "-c", KILLED, store_url, str(structures)], check=False)
    assert process.returncode == -9
    assert len(files(structures)) == 2
    assert list(store.materials()) == before


@pytest.mark.parametrize("damage", ["missing", "cut", "one bit"])
def test_a_bad_shard_is_named_and_mended_when_its_crystals_come_again(
    store: Store, store_url: str, structures: Path, make_material: Make, damage: str
) -> None:
    records = [scaled(make_material(f"m{i}", origin=f"some/pool.jsonl:{i}"), 1 + i) for i in range(6)]
    store.add_materials(records[:3])
    store.add_materials(records[3:])
    shard = structures / min(files(structures), key=lambda name: (structures / name).stat().st_mtime_ns)
    content = shard.read_bytes()
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(content[:-9] if damage == "cut" else bytes([content[0] ^ 1]) + content[1:])
    with Store.open(store_url, structures=structures) as again:
        fault = "is missing" if damage == "missing" else "is damaged: its bytes are not those that were written"
        with pytest.raises(BrokenShardError) as caught:
            list(again.materials())
        assert str(caught.value).startswith(f"{shard} {fault}")
        assert "ingest the same sources again (its crystals came from some/pool.jsonl)" in str(caught.value)
        assert [h for h, _ in again.structures(["m4", "m5"])] == ["hash of m4", "hash of m5"]
        again.compact_structures()  # passes it over
        assert again.add_materials([records[4], records[1]]).unchanged == ["m4", "m1"]
        assert again.material("m1").structure == records[1].structure
        with pytest.raises(BrokenShardError):
            again.material("m0")
        again.add_materials(records)
        assert [m.structure for m in again.materials()] == [record.structure for record in records]


def test_a_shard_that_comes_again_is_put_back(store: Store, structures: Path, make_material: Make) -> None:
    store.add_materials([make_material("m1")])
    (name,) = files(structures)
    (structures / name).write_bytes(b"")
    with Store.open(store.url.render_as_string(hide_password=False), structures=structures) as again:
        again.add_materials([make_material("m1")])
        assert again.material("m1").structure == make_material("m1").structure
    assert files(structures) == [name]


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs POSIX users")
def test_a_folder_that_cannot_be_written(store: Store, structures: Path, make_material: Make, monkeypatch) -> None:
    """Nothing is kept of the step; a full disk says the same."""
    structures.parent.mkdir(parents=True, exist_ok=True)
    structures.write_text("a file where the folder should be")
    with pytest.raises(StoreNotWritableError, match="structures"):
        store.add_materials([make_material("m1")])
    assert store.counts()["materials"] == 0


def test_a_better_copy_represents_its_crystal_until_it_is_used(store: Store, make_material: Make) -> None:
    store.add_materials([scaled(make_material(f"m{i}"), 1 + i) for i in range(4)])

    def copy(of: int) -> CopyRecord:
        source = SourceRecord(f"copy of m{of}", "a database", energy=-0.1)
        record = replace(make_material(f"copy of m{of}", f"better {of}"), spacegroup=221, sources=(source,))
        return CopyRecord(f"m{of}", scaled(record, 10), represents=True)

    store.add_labels([LabelRecord("m1", "kappa_300K", 1.0, "W/(m K)", "dft")])
    store.add_failures([FailureRecord("m2", "kappa_300K", "dft", FailureReason.TIMED_OUT)])
    assert store.link_copies([copy(0), copy(1), copy(2)]).conflicts == []
    assert [m.content_hash for m in store.materials()] == ["better 0", "hash of m1", "hash of m2", "hash of m3"]
    found = store.material("m0")
    assert (found.structure, found.spacegroup) == (copy(0).copy.structure, 221)
    assert [(s.record_id, s.content_hash, s.energy) for s in found.sources] == [
        ("m0", "hash of m0", None),
        ("copy of m0", "better 0", -0.1),
    ]
    assert store.resolve("copy of m1") == "m1"
    assert store.add_materials([scaled(make_material("m0"), 1)]).unchanged == ["m0"]
    assert store.material("m0").content_hash == "better 0"
    store.start_round({})
    store.link_copies([copy(3)])
    assert store.material("m3").content_hash == "hash of m3", "a round that is under way keeps its pool"
    store.finish_step(1, RoundState.QUEUED, queue=[QueueEntryRecord(1, "m3")])
    store.link_copies([copy(3)])
    assert store.material("m3").content_hash == "hash of m3"


# -- migration 0002 ----------------------------------------------------------------------------------------------------


def old_rows(count: int) -> list[dict[str, Any]]:
    key = {"formula": "NaCl", "chemical_system": "Cl-Na", "spacegroup": 225, "n_sites": 2, "bucket": "b"}
    cell = [[0.1 + 0.2, 0.0, -0.0], [0.0, 1e-300, 0.0], [0.0, 0.0, 5.0]]
    shapes = [{"lattice": cell, "numbers": [11, i + 1], "frac_coords": [[0.0] * 3, [i / 7] * 3]} for i in range(count)]
    return [key | {"material_id": f"m{i}", "content_hash": f"h{i}", "structure": s} for i, s in enumerate(shapes)]


@pytest.fixture
def old(store_url: str, structures: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Give the rows of a store of version 0001 with two campaigns."""
    monkeypatch.setattr(module, "FULL", 4)
    url = to_url(store_url)
    upgrade(url, 1.0, "0001")
    engine = make_engine(url, 1.0)
    rows = old_rows(10)
    with engine.begin() as connection:
        tables = {table.name: table for table in portable._tables(connection)}
        for name in ("one", "two"):
            values = {"name": name, "goal": "min", "property": "k", "settings": {}, "seed": 1}
            pk = connection.execute(
                insert(tables["campaign"]).returning(tables["campaign"].c.id),
                values | {"state": "active", "created_at": "2026-01-01"},
            ).scalar_one()
            for row in rows:
                material = connection.execute(
                    insert(tables["material"]).returning(tables["material"].c.id), row | {"campaign_id": pk}
                ).scalar_one()
                known = {"record_id": row["material_id"], "origin": "f", "content_hash": row["content_hash"]}
                own = {"campaign_id": pk, "material_pk": material, "retrieved_at": "2026-01-01", "note": ""}
                connection.execute(insert(tables["source"]), known | own)
    engine.dispose()
    return rows


def test_structures_move_out_of_the_tables_and_back(
    store_url: str, structures: Path, old: list[dict[str, Any]]
) -> None:
    from alembic import command

    assert Store.upgrade(store_url, structures=structures) == ("0001", SCHEMA_VERSION)
    for name in ("one", "two"):
        with Store.open(store_url, campaign=name, structures=structures) as store:
            found = list(store.materials())
            assert repr([m.structure for m in found]) == repr([row["structure"] for row in old])
            assert [m.sources[0].energy for m in found] == [None] * 10
    assert Store.upgrade(store_url, structures=structures) == (SCHEMA_VERSION, SCHEMA_VERSION)
    engine = make_engine(to_url(store_url), 1.0, foreign_keys=False)
    with engine.execution_options(writes=True).begin() as connection:
        command.downgrade(alembic_config(connection, structures), "0001")
        found = connection.execute(text("SELECT structure FROM material ORDER BY id")).scalars()
        back = [json.loads(value) if isinstance(value, str) else value for value in found]
        assert repr(back) == repr([row["structure"] for row in old] * 2)
    engine.dispose()
    Store.upgrade(store_url, structures=structures)
    with Store.open(store_url, campaign="two", structures=structures) as store:
        assert [m.structure for m in store.materials()] == [row["structure"] for row in old]


def test_rows_of_the_older_version_come_through_an_archive(
    store_url: str, structures: Path, old: list[dict[str, Any]], tmp_path: Path
) -> None:
    source = Portable(to_url(store_url), 1.0, "one")
    load_campaign(tmp_path / "new.sqlite", source.dump(), "0001")
    source.close()
    with Store.open(tmp_path / "new.sqlite") as store:
        assert [m.structure for m in store.materials()] == [row["structure"] for row in old]
