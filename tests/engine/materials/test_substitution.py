"""Substitutions against pymatgen's own predictor, on known crystals."""

from __future__ import annotations

import pytest
from pymatgen.core import Species
from pymatgen.core.structure_prediction.substitution_probability import SubstitutionPredictor

from engine.materials.substitution import likeliest

ROCKSALT = ((("Rb", 1), ("Br", -1)), (("K", 1), ("Cl", -1)), (("Mg", 2), ("O", -2)))


def test_the_same_probabilities_as_pymatgens_predictor():
    found = likeliest((("Cs", 1), ("I", -1)), ROCKSALT)
    assert found.known == ("Rb", "Br")
    predicted = SubstitutionPredictor(threshold=1e-3).list_prediction([Species("Cs", 1), Species("I", -1)])
    wanted = {Species("Rb", 1): Species("Cs", 1), Species("Br", -1): Species("I", -1)}
    (probability,) = [one["probability"] for one in predicted if one["substitutions"] == wanted]
    assert 10**found.log10_probability == pytest.approx(probability)


def test_neighbours_in_a_group_are_likelier_than_strangers():
    caesium, thallium = (likeliest(((name, 1), ("Br", -1)), ROCKSALT) for name in ("Cs", "Tl"))
    gold = likeliest((("Au", 1), ("Br", -1)), ROCKSALT)
    assert caesium.known == thallium.known == ("Rb", "Br")
    assert gold.log10_probability < min(caesium.log10_probability, thallium.log10_probability) < 0


def test_ions_that_the_model_does_not_know():
    assert likeliest((("Cs", 7), ("I", -7)), ROCKSALT) is None
    assert likeliest((("Cs", 1), ("I", -1)), ()) is None
