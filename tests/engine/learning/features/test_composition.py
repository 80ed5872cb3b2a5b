"""Composition statistics, against those the peers are given."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np

from engine.learning.backbones.backbone import known_compounds
from engine.learning.features.composition import COMPOSITION_STATISTICS, composition_statistics
from engine.materials.reference import reference_crystals


def test_equal_to_those_of_the_benchmark(shared, monkeypatch):
    path = shared("bench/make_features.py")
    monkeypatch.setattr(sys, "path", [str(path.parent), *sys.path])
    spec = importlib.util.spec_from_file_location("make_features", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    crystals = list(reference_crystals().values())[::5]
    theirs = np.array([module.statistics(c.to_structure()) for c in crystals])
    np.testing.assert_allclose(composition_statistics(crystals), theirs, rtol=1e-5, atol=1e-5)


def test_one_column_a_name(materials):
    table = composition_statistics(m.crystal for m in materials)
    assert table.shape == (60, 28) == (60, len(COMPOSITION_STATISTICS))
    assert table.dtype == np.float32
    assert np.isfinite(table).all()
    assert composition_statistics([]).shape == (0, 28)
    row = dict(
        zip(COMPOSITION_STATISTICS, composition_statistics([known_compounds()["NaCl"]])[0].tolist(), strict=True)
    )
    assert row["mean_mass"] == np.float32((22.98976928 + 35.453) / 2)
    assert (row["n_atoms"], row["n_elements"]) == (2, 2)
    assert row["density"] > 1.9
