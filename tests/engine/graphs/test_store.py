"""Graphs survive the disk unchanged."""

from __future__ import annotations

import numpy as np
import pytest

from engine.graphs.crystal_graph import build_graph
from engine.graphs.store import GraphStore
from engine.materials.crystal import Crystal
from engine.materials.reference import reference_crystals

CRYSTALS = dict(list(reference_crystals().items())[::15])
CRYSTALS["lonely"] = Crystal.from_symbols(30 * np.eye(3), ["Xe"], [[0, 0, 0]])


def assert_same(found, expected) -> None:
    for name in ("numbers", "positions", "edges", "shifts"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_graphs_round_trip_in_any_order(tmp_path):
    expected = {key: build_graph(crystal, 4.0) for key, crystal in CRYSTALS.items()}
    GraphStore(tmp_path, 4.0).add(expected)
    backwards = list(CRYSTALS)[::-1]
    for graph, key in zip(GraphStore(tmp_path, 4.0).read(backwards), backwards, strict=True):
        assert_same(graph, expected[key])


def test_every_cutoff_has_its_own(tmp_path):
    name = next(iter(CRYSTALS))
    GraphStore(tmp_path, 4.0).add({name: build_graph(CRYSTALS[name], 4.0)})
    assert GraphStore(tmp_path, 4.0).missing(CRYSTALS) == list(CRYSTALS)[1:]
    assert GraphStore(tmp_path, 5.0).missing([name]) == [name]
    with pytest.raises(KeyError, match="nothing"):
        GraphStore(tmp_path, 4.0).read(["nothing"])


def test_damage_is_named(tmp_path):
    store = GraphStore(tmp_path, 4.0)
    store.add({key: build_graph(crystal, 4.0) for key, crystal in CRYSTALS.items()})
    (path,) = tmp_path.rglob("*.arrow")
    path.write_bytes(path.read_bytes()[:-100])
    again = GraphStore(tmp_path, 4.0)
    assert again.discard_broken() == [path.name]
    assert len(again.missing(CRYSTALS)) == len(CRYSTALS)
