"""Energies above the hull of reference phases."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from engine.physics.hull import Hull, Phase

REFERENCES = [
    Phase({"Cu": 1}, -0.007),
    Phase({"Cu": 2}, 0.02),
    Phase({"Au": 4}, 0.0),
    Phase({"Cu": 3, "Au": 1}, -0.0155),
    Phase({"Ag": 1}, 0.0),
    Phase({"Ag": 1, "Au": 1}, -0.01),
]


def test_a_phase_on_the_hull_is_at_zero_and_one_below_is_negative() -> None:
    hull = Hull(REFERENCES)
    on, between, above, below = hull.energies_above(
        [
            Phase({"Cu": 6, "Au": 2}, -0.0155),
            Phase({"Cu": 1, "Au": 1}, -0.0155 * 2 / 3),
            Phase({"Cu": 1}, 0.02),
            Phase({"Cu": 3, "Au": 1}, -0.1155),
        ]
    )
    assert on == pytest.approx(0, abs=1e-12)
    assert between == pytest.approx(0, abs=1e-12)
    assert above == pytest.approx(0.027)
    assert below == pytest.approx(-0.1)


def test_random_phases_are_where_pymatgen_puts_them() -> None:
    rng = np.random.default_rng(0)
    found = Hull(REFERENCES)
    entries = [PDEntry(Composition(dict(p.composition)), p.energy * sum(p.composition.values())) for p in REFERENCES]
    diagram = PhaseDiagram(entries)
    for _ in range(20):
        composition = dict(zip(("Cu", "Au", "Ag"), map(float, rng.integers(1, 5, size=3)), strict=True))
        entry = PDEntry(Composition(composition), float(rng.normal(scale=0.1)) * sum(composition.values()))
        _, expected = diagram.get_decomp_and_e_above_hull(entry, allow_negative=True, check_stable=False)
        (energy,) = found.energies_above([Phase(composition, entry.energy_per_atom)])
        assert energy == pytest.approx(expected, abs=1e-9)


def test_an_element_without_a_reference_is_named() -> None:
    hull = Hull(REFERENCES)
    assert hull.without_reference(["Cu", "Au"]) == []
    assert hull.without_reference(["Cu", "Zn", "Al"]) == ["Al", "Zn"]
    assert len(hull.competing(["Cu", "Au"])) == 4
    with pytest.raises(ValueError, match="no reference of Zn"):
        hull.energies_above([Phase({"Cu": 1, "Zn": 1}, 0.0)])
