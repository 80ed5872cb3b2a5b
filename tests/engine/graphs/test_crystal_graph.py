"""Graphs against MatGL's own converter, alone and in a batch; batches packed by edges."""

from __future__ import annotations

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.graphs.crystal_graph import build_graph, build_graphs, collate, pack
from engine.materials.crystal import Crystal
from engine.materials.reference import reference_crystals

CUTOFF = 4.0
CRYSTALS = list(reference_crystals().values())[::12]


def edges(sources, neighbours, shifts) -> Counter[tuple[float, ...]]:
    rows = np.column_stack([sources, neighbours, np.round(shifts, 3) + 0.0])
    return Counter(map(tuple, rows.tolist()))


@pytest.mark.parametrize("crystal", CRYSTALS, ids=[c.formula for c in CRYSTALS])
def test_the_graph_is_that_of_matgl(crystal):
    from matgl.ext.pymatgen import Structure2Graph

    theirs, lattice, _ = Structure2Graph(sorted(set(crystal.symbols)), CUTOFF).get_graph(crystal.to_structure())
    ours = build_graph(crystal, CUTOFF)
    shifts = (theirs.pbc_offset @ lattice[0]).numpy()
    assert edges(*ours.edges, ours.shifts) == edges(*theirs.edge_index.numpy(), shifts)
    np.testing.assert_allclose(ours.positions, (theirs.frac_coords @ lattice[0]).numpy(), atol=1e-5)
    assert ours.n_edges == theirs.edge_index.shape[1] > 0


def test_no_neighbour_within_the_cutoff():
    lonely = Crystal.from_symbols(30 * np.eye(3), ["Xe"], [[0, 0, 0]])
    graph = build_graph(lonely, CUTOFF)
    assert graph.n_edges == 0
    assert graph.edges.shape == (2, 0)
    assert graph.shifts.shape == (0, 3)


def test_a_batch_gives_what_predict_structure_gives(shared):
    import matgl
    import torch

    from engine.learning.backbones.bodies import node_types

    model = matgl.load_model(shared("pretrained/MEGNet-MP-2018.6.1-Eform")).eval()
    graphs = [build_graph(c, float(model.cutoff)) for c in CRYSTALS]
    with torch.no_grad():
        together = model(g=collate(graphs, node_types(model)), state_attr=torch.zeros(len(graphs), 2)).numpy()
    alone = [float(model.predict_structure(c.to_structure())) for c in CRYSTALS]
    np.testing.assert_allclose(together, alone, atol=2e-5)


def test_a_batch_keeps_its_graphs_apart():
    graphs = [build_graph(c, CUTOFF) for c in CRYSTALS[:3]]
    batch = collate(graphs, np.arange(104))
    assert batch.num_graphs == 3
    assert batch.batch.bincount().tolist() == [len(g.numbers) for g in graphs]
    assert (batch.batch[batch.edge_index[0]] == batch.batch[batch.edge_index[1]]).all()
    assert batch.node_type.tolist() == np.concatenate([g.numbers for g in graphs]).tolist()


@given(
    st.lists(st.integers(0, 500), max_size=60),
    st.integers(1, 600),
    st.integers(1, 10),
)
def test_every_crystal_is_packed_once_and_within_the_budget(n_edges, max_edges, max_graphs):
    batches = [batch.tolist() for batch in pack(n_edges, max_edges, max_graphs)]
    assert sorted(chain(*batches)) == list(range(len(n_edges)))
    for batch in batches:
        assert 1 <= len(batch) <= max_graphs
        assert len(batch) == 1 or sum(n_edges[i] for i in batch) <= max_edges
    sizes = [n_edges[i] for i in chain(*batches)]
    assert sizes == sorted(sizes), "batches are of similar size"


def test_several_cutoffs_from_one_search():
    for crystal in list(reference_crystals().values())[::20]:
        for found, cutoff in zip(build_graphs(crystal, (4.0, 6.0, 2.0)), (4.0, 6.0, 2.0), strict=True):
            expected = build_graph(crystal, cutoff)
            np.testing.assert_array_equal(found.positions, expected.positions)
            assert _rows(found) == _rows(expected)


def _rows(graph) -> list:
    return sorted(zip(*graph.edges.tolist(), graph.shifts.tolist(), strict=True))
