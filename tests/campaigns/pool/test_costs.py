"""Prices and limits: one rule, and refusals that say what is exceeded."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.campaign import Campaign
from campaigns.configuration import DftSection
from campaigns.configuration.reading import parse_configuration
from campaigns.pool.costs import Costs, Price, SizeLimits, is_priced_by_dft, pricing_settings, supercell_settings
from engine.physics.cost import SupercellSettings, Workload
from tests.campaigns.helpers import configure


def configuration(campaign: str = "", labeler: str = ""):
    return parse_configuration(f'[campaign]\nname = "x"\ngoal = "min"\n{campaign}\n[labeler]\n{labeler}\n', "c")


@pytest.mark.parametrize(
    ("campaign", "labeler", "priced"),
    [
        ("", "", True),
        ('fidelity = "experiment"', "", False),
        ('property = "band_gap"\nunit = "eV"', "", False),
        ("", 'kind = "replay"\nsource = "reference"', False),
        ('fidelity = "agl"', 'kind = "agl"\npotential = "rigid-ion:NaCl"', False),
    ],
)
def test_what_is_priced_by_the_settings_of_first_principles(campaign: str, labeler: str, priced: bool) -> None:
    found = configuration(campaign, labeler)
    assert is_priced_by_dft(found) is priced
    kept = pricing_settings(found)
    assert (kept is not None) is priced
    if kept is not None:
        assert DftSection.model_validate(kept) == found.dft


@given(
    supercells=st.integers(1, 10**6),
    atoms=st.integers(1, 10**4),
    hours=st.floats(0.001, 1e9),
    most=st.tuples(st.integers(1, 10**6), st.integers(1, 10**4), st.none() | st.floats(0.001, 1e9)),
)
def test_a_ratio_above_one_is_a_refusal(
    supercells: int, atoms: int, hours: float, most: tuple[int, int, float | None]
) -> None:
    limits = SizeLimits(*most)
    said = limits.exceeded(Price(supercells, atoms, hours, exact=True))
    (ratio,) = limits.excess(Workload(np.array([supercells]), np.array([atoms]), 1.0), np.array([hours]))
    assert bool(said) == (ratio > 1)
    if said:
        assert f"{hours:,.0f} core-hours" in said
        assert "[dft] max_" in said


def test_settings_of_the_supercells() -> None:
    dft = DftSection(min_length=9.0, fc2_min_length=12.0, pair_cutoff=4.0, displacements="systematic")
    assert supercell_settings(dft) == SupercellSettings(9.0, 4.0, "systematic", 12.0)
    assert supercell_settings(DftSection()).key == [10.0, None, "random", None]
    assert SupercellSettings(9.0).key == [9.0, None], "as counts of earlier versions were stored"


def test_without_phono3py_sizes_are_estimated_and_that_is_said(dft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configure(dft, {"dft": {"max_supercells": 1}})
    monkeypatch.setitem(sys.modules, "phonopy.structure.symmetry", None)
    said: list[str] = []
    with Campaign.open(dft) as campaign:
        costs = Costs.now(campaign.workspace, said.append)
        keys = campaign.store.material_index()[:5]
        prices = costs.prices(keys)
        assert not any(costs.too_large(keys)), "an estimate is no reason"
    assert all(price.core_hours and not price.exact for price in prices)
    (words,) = said
    assert "force calls of 5 crystals are estimated, not counted, and limits do not leave them out" in words
    assert "pip install kappascout[phonons]" in words
