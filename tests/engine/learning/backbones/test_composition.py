"""The composition network: a formula and nothing else decides what it gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.exceptions import UnknownElementError
from engine.learning.backbones.backbone import Backbone, known_compounds, load_backbone
from engine.learning.backbones.bodies import body_arguments, build_body
from engine.learning.backbones.composition import CompositionNetwork, formula_fractions
from engine.learning.backbones.network import GraphNetwork
from engine.learning.features.composition import COMPOSITION_STATISTICS, FORMULA_COLUMNS
from engine.learning.features.statistics import crystal_statistics
from engine.learning.pretraining.scratch import scratch_backbone
from engine.materials.crystal import Crystal


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    """With a trunk and a head, so that the statistics are read too."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = GraphNetwork(CompositionNetwork(units=16), 16, ("kappa",), 8)
        network.fit_statistics(torch.from_numpy(crystal_statistics(known_compounds().values())))
    return Backbone("formula", network.eval(), {})


def crystal(symbols, length=6.0, seed=0) -> Crystal:
    return Crystal.from_symbols(
        np.eye(3) * length, list(symbols), np.random.default_rng(seed).random((len(symbols), 3))
    )


def columns(backbone: Backbone, *crystals: Crystal) -> np.ndarray:
    """Readout and trunk."""
    return backbone.embed_crystals(crystals)[:, backbone.groups["readout"].start :]


@given(
    st.lists(st.sampled_from(["Na", "Cl", "Mg", "O", "Sr", "Ti"]), min_size=1, max_size=9),
    st.integers(1, 4),
    st.randoms(),
)
def test_order_and_multiples_of_a_formula_do_not_matter(backbone, symbols, times, random):
    shuffled = symbols * times
    random.shuffle(shuffled)
    one, other = columns(backbone, crystal(symbols), crystal(shuffled, length=9.0, seed=1))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_structure_does_not_matter(backbone):
    found = columns(backbone, *(crystal(["Na", "Cl"], length, seed) for seed, length in enumerate((4.0, 6.0, 12.0))))
    np.testing.assert_allclose(found, found[:1].repeat(3, axis=0), atol=1e-6)


def test_formulas_do(backbone):
    formulas = (["Na", "Cl"], ["Na", "Na", "Cl"], ["K", "Cl"], ["Na"], ["Sr", "Ti", "O", "O", "O"])
    assert len(np.unique(columns(backbone, *map(crystal, formulas)).round(4), axis=0)) == len(formulas)


def test_a_crystal_does_not_depend_on_its_batch(backbone):
    one, long = crystal(["Na", "Cl"]), crystal(["Sr", "Ti", "O", "O", "O", "Na", "Cl", "K"])
    np.testing.assert_allclose(columns(backbone, one, long)[0], columns(backbone, one)[0], atol=1e-6)


def test_fractions_are_exact():
    types = torch.tensor([2, 0, 0, 2, 2, 0, 0, 0, 0])
    found = formula_fractions(types, torch.tensor([0] * 3 + [1] * 6), 2, 3)
    torch.testing.assert_close(found, torch.tensor([[2 / 3, 0.0, 1 / 3], [2 / 3, 0.0, 1 / 3]]), rtol=0, atol=0)


@pytest.mark.parametrize("index", [-1, 3])
def test_an_element_outside_is_refused(index):
    with pytest.raises(UnknownElementError, match=rf"outside the 3 .*index {index}\b.*exclude"):
        formula_fractions(torch.tensor([0, index]), torch.tensor([0, 0]), 1, 3)


def test_a_crystal_with_an_element_outside_is_refused_by_name(backbone):
    with pytest.raises(UnknownElementError, match="does not know Po; exclude"):
        backbone.embed_crystals([crystal(["Po", "O"])])


def test_it_comes_back_from_disk(backbone, tmp_path):
    again = load_backbone(backbone.save(tmp_path))
    assert again.sha256 == backbone.sha256
    made = build_body("CompositionNetwork", body_arguments(again.body))
    assert body_arguments(made) == body_arguments(backbone.body)


def test_from_scratch():
    first, again, other = (scratch_backbone("scratch:composition", {"units": 8}, seed) for seed in (0, 0, 1))
    assert first.sha256 == again.sha256 != other.sha256
    assert first.network.readout_size == 8


def test_units_that_heads_do_not_divide():
    with pytest.raises(ValueError, match="multiple of heads, got 10 and 4"):
        CompositionNetwork(units=10)


def test_columns_of_the_formula_are_the_same_for_any_cell():
    small, large = crystal_statistics([crystal(["Na", "Cl"], 4.0), crystal(["Na", "Cl"] * 4, 9.0)])
    same = np.isclose(small, large, rtol=1e-5)[: len(COMPOSITION_STATISTICS)]
    assert set(FORMULA_COLUMNS) == set(np.flatnonzero(same).tolist())
