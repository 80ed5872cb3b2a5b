"""Graphs survive the disk unchanged and are built once."""

from __future__ import annotations

import numpy as np
import pytest

from engine.graphs import store as module
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
    for graph, key in zip(GraphStore(tmp_path, 4.0).get(CRYSTALS), CRYSTALS, strict=True):
        assert_same(graph, expected[key])
    backwards = list(CRYSTALS)[::-1]
    for graph, key in zip(GraphStore(tmp_path, 4.0).read(backwards), backwards, strict=True):
        assert_same(graph, expected[key])


def test_a_graph_is_built_once_for_a_cutoff(tmp_path, monkeypatch):
    built = []
    monkeypatch.setattr(module, "build_graph", lambda c, cutoff: built.append(cutoff) or build_graph(c, cutoff))
    few = dict(list(CRYSTALS.items())[:3])
    GraphStore(tmp_path, 4.0).get(few)
    GraphStore(tmp_path, 4.0).get(few)
    assert built == [4.0] * 3
    GraphStore(tmp_path, 5.0).get(few)
    assert built == [4.0] * 3 + [5.0] * 3


def test_an_absent_graph(tmp_path):
    with pytest.raises(KeyError, match="nothing"):
        GraphStore(tmp_path, 4.0).read(["nothing"])
