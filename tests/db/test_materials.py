from __future__ import annotations

import itertools
import sys
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select
from sqlalchemy import text as sql

from db.exceptions import UnknownMaterialError
from db.materials import _after
from db.records import CopyRecord, MaterialKey, MaterialRecord, RejectionRecord, SourceRecord
from db.tables import Material


def only(store, material_id):
    return store.material(material_id)


def test_materials_come_back_as_they_went_in(store, make_material):
    records = [
        make_material("b", band_gap_eV=1.5, n_elements=2, is_stable=True, phase="rocksalt"),
        make_material("a", energy_above_hull_eV=0.0),
    ]
    report = store.add_materials(records)
    assert (report.added, report.duplicates, report.conflicts, report.unchanged) == (["b", "a"], [], [], [])
    found = list(store.materials())
    assert [replace(record, sources=()) for record in found] == [replace(record, sources=()) for record in records]
    assert type(found[0].properties["n_elements"]) is int
    assert found[0].properties["is_stable"] is True
    source = found[0].sources[0]
    assert (source.record_id, source.origin, source.content_hash) == ("b", "pool.jsonl", "hash of b")
    assert source.retrieved_at


def test_the_same_again_changes_nothing(store, pool, make_material):
    before = list(store.materials())
    report = store.add_materials(before)
    assert report.unchanged == pool
    assert (report.added, report.duplicates, report.conflicts) == ([], [], [])
    assert list(store.materials()) == before


def test_the_same_record_from_another_file_is_a_further_source(store, pool, make_material):
    report = store.add_materials([make_material("m1", origin="copy.jsonl", bulk_modulus_GPa=25.0)])
    assert report.unchanged == ["m1"]
    assert [source.origin for source in only(store, "m1").sources] == ["pool.jsonl", "copy.jsonl"]
    assert only(store, "m1").properties == {"band_gap_eV": 0.5, "bulk_modulus_GPa": 25.0}


def test_an_exact_duplicate_becomes_a_source_and_adds_what_is_not_known(store, pool, make_material):
    twin = make_material("mp-22862", "hash of m1", band_gap_eV=9.9, bulk_modulus_GPa=25.0)
    report = store.add_materials([twin])
    assert report.duplicates == [("mp-22862", "m1")]
    assert store.resolve("mp-22862") == "m1"
    assert [source.record_id for source in only(store, "mp-22862").sources] == ["m1", "mp-22862"]
    assert only(store, "m1").properties == {"band_gap_eV": 0.5, "bulk_modulus_GPa": 25.0}
    assert store.add_materials([twin]).unchanged == ["mp-22862"]


def test_duplicates_inside_one_batch(store, make_material):
    report = store.add_materials([make_material("a", "h"), make_material("b", "h"), make_material("a", "h")])
    assert (report.added, report.duplicates, report.unchanged) == (["a"], [("b", "a")], ["a"])
    assert store.counts()["materials"] == 1
    assert store.counts()["sources"] == 2


def test_a_known_id_with_another_crystal_is_refused_and_the_rest_goes_on(store, pool, make_material):
    store.add_materials([make_material("twin", "hash of m2")])
    report = store.add_materials([make_material("m1", "new"), make_material("twin", "newer"), make_material("z")])
    assert report.added == ["z"]
    assert [record_id for record_id, _ in report.conflicts] == ["m1", "twin"]
    message = report.conflicts[1][1]
    assert "'m2'" in message
    assert "hash of m2" in message
    assert "newer" in message
    assert only(store, "m1").content_hash == "hash of m1"


def test_a_known_id_with_the_crystal_of_another_material_is_refused(store, pool, make_material):
    report = store.add_materials([make_material("m1", "hash of m2")])
    assert [record_id for record_id, _ in report.conflicts] == ["m1"]


def test_a_near_duplicate_is_linked_and_known_when_it_comes_again(store, pool, make_material):
    copy = make_material("near", "near hash", band_gap_eV=0.0, density=2.1)
    assert store.link_copies([CopyRecord("m3", copy)]).duplicates == [("near", "m3")]
    again = replace(copy, properties={"density": 99.0})
    assert store.link_copies([CopyRecord("m3", again)]).unchanged == ["near"]
    assert only(store, "near").properties == {"band_gap_eV": 1.5, "density": 2.1}
    assert store.counts()["sources"] == 11
    assert store.add_materials([make_material("near", "near hash")]).unchanged == ["near"]
    assert store.add_materials([make_material("nearer", "near hash")]).duplicates == [("nearer", "m3")]


def test_a_near_copy_under_an_id_of_its_material_is_unchanged(store, pool, make_material):
    """And known by its hash when it comes again, beside the first."""
    report = store.link_copies([CopyRecord("m3", make_material("m3", "near hash", "elsewhere"))])
    assert (report.unchanged, report.duplicates, report.conflicts) == (["m3"], [], [])
    for content_hash in ("near hash", "hash of m3"):
        assert store.add_materials([make_material("m3", content_hash)]).unchanged == ["m3"]
    assert store.add_materials([make_material("m3", "another")]).conflicts[0][0] == "m3"
    assert only(store, "m3").content_hash == "hash of m3"


def test_a_property_is_added_where_it_is_lacking(store, pool, make_material):
    store.link_copies([CopyRecord("m2", make_material("alias", "near hash"))])
    store.add_property("dimensionality", {"m1": 3, "alias": 2})
    store.add_property("dimensionality", {"m1": 0, "m2": 0, "m3": 1})
    store.add_property("dimensionality", {})
    assert store.property_values(["dimensionality"])["dimensionality"] == {"m1": 3, "m2": 2, "m3": 1}
    with pytest.raises(UnknownMaterialError, match="'nobody'"):
        store.add_property("dimensionality", {"nobody": 1})


@pytest.mark.parametrize(
    ("material_id", "content_hash", "words"),
    [
        ("m4", "near hash", "id 'm4' is known already with another crystal"),
        ("near", "hash of m4", "that crystal is material 'm4' already"),
    ],
)
def test_links_that_contradict_the_store(store, pool, make_material, material_id, content_hash, words):
    copies = [CopyRecord("m3", make_material(material_id, content_hash)), CopyRecord("m3", make_material("c", "h"))]
    ((refused, why),) = store.link_copies(copies).conflicts
    assert refused == material_id
    assert words in why
    assert store.resolve("c") == "m3"


def test_link_to_an_unknown_material(store, make_material):
    with pytest.raises(UnknownMaterialError, match="'nobody'"):
        store.link_copies([CopyRecord("nobody", make_material("near"))])


def test_finders(store, pool, make_material):
    store.add_materials([replace(make_material("other"), bucket="KCl|225|2", formula="KCl")])
    assert [key.material_id for key in store.material_index()] == [*pool, "other"]
    assert store.material_index()[-1].formula == "KCl"
    parts = list(store.material_columns(chunk=2))
    assert [len(part[0]) for part in parts] == [2, 2, 2, 2, 2, 1]
    assert [MaterialKey(*row) for part in parts for row in zip(*part, strict=True)] == store.material_index()
    assert [id_ for ids, *_ in store.material_columns(5, chunk=3) for id_ in ids] == pool[:5]
    assert [key.material_id for key in store.material_index(["other", "m3", "other"])] == ["other", "m3", "other"]
    assert [m.material_id for m in store.materials(chunk=3)] == [*pool, "other"]
    assert [m.material_id for m in store.materials(["m7", "m0", "m7"], chunk=2)] == ["m7", "m0", "m7"]
    buckets = store.in_buckets(["NaCl|225|2", "KCl|225|2", "nothing"])
    assert store.known_hashes(["hash of m1", "nothing"]) == {"hash of m1"}
    assert {bucket: [m.material_id for m in found] for bucket, found in buckets.items()} == {
        "NaCl|225|2": pool,
        "KCl|225|2": ["other"],
    }
    assert store.property_names() == {"band_gap_eV": 10}
    values = store.property_values(["band_gap_eV", "missing"])
    assert values["missing"] == {}
    assert list(values["band_gap_eV"]) == pool
    assert values["band_gap_eV"]["m3"] == 1.5


def test_a_chunk_is_read_without_sorting_all_that_follow(store, pool):
    """Otherwise the time to read a pool grows with the square of its size."""
    with store.session() as session:
        if session.get_bind().dialect.name != "sqlite":
            pytest.skip("SQLite's planner is meant")
        query = select(Material.id).where(*_after(0, 1)).order_by(Material.id).limit(3)
        words = str(query.compile(session.get_bind(), compile_kwargs={"literal_binds": True}))
        plan = " ".join(row.detail for row in session.execute(sql(f"EXPLAIN QUERY PLAN {words}")))
    assert "PRIMARY KEY" in plan
    assert "TEMP" not in plan


def test_writing_while_reading_in_chunks(store, pool, make_material):
    for record in itertools.islice(store.materials(chunk=2), 10):
        store.add_materials([make_material(f"child of {record.material_id}")])
    assert store.counts()["materials"] == 20


def test_structures_by_any_id_in_the_order_asked_for(store, pool, make_material):
    store.add_materials([make_material("mp-22862", "hash of m1")])
    wanted = ["m7", "mp-22862", "m0", "m1"]
    expected = [(m.content_hash, m.structure) for m in store.materials(wanted)]
    assert list(store.structures(wanted, chunk=3)) == expected
    assert list(store.structures([])) == []


def test_unknown_ids_are_all_named(store, pool):
    with pytest.raises(UnknownMaterialError, match=r"'x', 'y'") as caught:
        store.resolve_all(["m1", "x", "y"])
    assert not str(caught.value).startswith('"')
    with pytest.raises(UnknownMaterialError):
        list(store.materials(["x"]))


def test_rejections_are_kept_once(store):
    refused = RejectionRecord("bad.cif", "bad", "overlap", "atoms 0.1 A apart", "check the coordinates")
    assert store.add_rejections([refused, refused]) == 1
    assert store.add_rejections([refused, replace(refused, record_id="worse")]) == 1
    kept = store.rejections()
    assert [record.record_id for record in kept] == ["bad", "worse"]
    assert kept[0] == replace(refused, at=kept[0].at)


text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
value = (
    st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False, width=64)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))
)
triple = st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3)
counter = itertools.count()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    formula=text.filter(str.strip),
    properties=st.dictionaries(text, value, max_size=4),
    lattice=st.tuples(triple, triple, triple),
    sites=st.lists(st.tuples(st.integers(1, 118), triple), max_size=4),
    note=text,
    version=st.none() | text,
)
def test_any_material_round_trips(store, formula, properties, lattice, sites, note, version):
    material_id = f"material {next(counter)}"
    source = SourceRecord(material_id, "a file", "2026-01-01", version, None, note, "hash " + material_id)
    record = MaterialRecord(
        material_id,
        "hash " + material_id,
        formula,
        "",
        1,
        len(sites),
        "bucket",
        {"lattice": list(lattice), "numbers": [z for z, _ in sites], "frac_coords": [site for _, site in sites]},
        properties,
        (source,),
    )
    assert store.add_materials([record]).added == [material_id]
    found = store.material(material_id)
    assert found == record
    assert repr(found.structure) == repr(record.structure)  # which tells -0.0 from 0.0
    assert {name: type(item) for name, item in found.properties.items()} == {
        name: type(item) for name, item in properties.items()
    }


def test_a_large_batch_in_one_go(store, make_material):
    n = 3000 if "coverage" not in sys.modules else 1000
    assert len(store.add_materials(make_material(f"m{i}", band_gap_eV=1.0) for i in range(n)).added) == n
    assert [m.material_id for m in store.materials()] == [f"m{i}" for i in range(n)]


def test_properties_are_set_whatever_they_were(store, make_material):
    store.add_materials([make_material("a", gap=1.0, kind="x"), make_material("b")])
    store.set_properties({"a": {"gap": 2.0, "kind": None, "new": "text"}, "b": {"gap": 3.0, "absent": None}})
    assert store.material("a").properties == {"gap": 2.0, "new": "text"}
    assert store.property_values(["gap", "kind"]) == {"gap": {"a": 2.0, "b": 3.0}, "kind": {}}
    assert store.property_values(["gap"], ["b"]) == {"gap": {"b": 3.0}}
    assert store.property_values(["gap"], []) == {"gap": {}}
    store.set_properties({})
    with pytest.raises(UnknownMaterialError):
        store.set_properties({"a": {"gap": 9.0}, "nobody": {"gap": 1.0}})
    assert store.material("a").properties["gap"] == 2.0
