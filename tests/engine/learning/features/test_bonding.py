"""Bonding statistics on crystals whose bonds everybody knows."""

from __future__ import annotations

import numpy as np
import pytest

from engine.learning.backbones.backbone import known_compounds
from engine.learning.features.bonding import BONDING_STATISTICS, bonding_statistics
from engine.learning.features.statistics import STATISTICS, crystal_statistics
from engine.materials.crystal import Crystal

HALF = np.array([[0.0, 0.5, 0.5], [0.5, 0.0, 0.5], [0.5, 0.5, 0.0]])


def described(crystal: Crystal) -> dict[str, float]:
    return dict(zip(BONDING_STATISTICS, bonding_statistics([crystal])[0].tolist(), strict=True))


def test_rock_salt():
    row = described(known_compounds()["NaCl"])  # a = 5.69
    assert row["mean_coordination"] == 6
    assert row["mean_log_distance"] == pytest.approx(np.log(5.69 / 2), abs=1e-5)
    assert row["mean_off_centre"] == pytest.approx(0, abs=1e-5)
    assert row["mean_flatness"] == pytest.approx(1 / 3, abs=1e-5)
    # of 15 pairs of bonds three are opposite and twelve at right angles
    assert row["mean_mean_cosine"] == pytest.approx(-3 / 15, abs=1e-5)
    assert row["mean_std_cosine"] == pytest.approx(np.sqrt(3 / 15 - (3 / 15) ** 2), abs=1e-5)
    assert row["like_bonds"] == 0
    assert row["packing"] == pytest.approx(np.pi / 6, abs=1e-4)


def test_diamond():
    silicon = Crystal.from_symbols(HALF * 5.47, ["Si", "Si"], [[0, 0, 0], [0.25, 0.25, 0.25]])
    row = described(silicon)
    assert row["mean_coordination"] == 4
    assert row["mean_mean_cosine"] == pytest.approx(-1 / 3, abs=1e-5)
    assert row["like_bonds"] == 1


def test_springs_of_a_cubic_crystal_are_isotropic_where_they_must_be():
    row = described(known_compounds()["MgO"])
    levels = [row[f"log_elastic_{i}"] for i in range(1, 7)]
    assert levels == sorted(levels)
    # C44 three times, the tetragonal modulus twice, the bulk modulus once
    exact = np.exp(levels)
    counts = sorted(np.unique(np.round(exact, 3), return_counts=True)[1].tolist())
    assert counts == [1, 2, 3]


def test_a_supercell_and_a_rotation_change_only_the_number_of_atoms(materials):
    rng = np.random.default_rng(0)
    q, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    for material in materials[:12]:
        crystal = material.crystal
        double = Crystal(
            crystal.lattice * np.array([[2.0], [1.0], [1.0]]) @ q,
            np.concatenate([crystal.numbers, crystal.numbers]),
            np.concatenate([crystal.frac_coords, crystal.frac_coords + np.eye(3)[0]]) / [2, 1, 1],
        )
        one, two = described(crystal), described(double)
        assert two.pop("log_n_atoms") - one.pop("log_n_atoms") == pytest.approx(np.log(2), abs=1e-5)
        for name, value in one.items():
            assert two[name] == pytest.approx(value, abs=2e-3, rel=2e-3), (material.formula, name)


def test_one_column_a_name(materials):
    crystals = [m.crystal for m in materials]
    table = bonding_statistics(crystals)
    assert table.shape == (60, len(BONDING_STATISTICS))
    assert np.isfinite(table).all()
    assert bonding_statistics([]).shape == (0, len(BONDING_STATISTICS))
    assert crystal_statistics(crystals).shape == (60, len(STATISTICS))
    np.testing.assert_allclose(bonding_statistics(crystals[7:8])[0], table[7], rtol=1e-5, atol=1e-5)


def test_atoms_too_far_apart_for_bonds():
    lonely = Crystal.from_symbols(np.eye(3) * 9.0, ["Xe"], [[0, 0, 0]])
    row = bonding_statistics([lonely])[0]
    assert np.isfinite(row).all()
