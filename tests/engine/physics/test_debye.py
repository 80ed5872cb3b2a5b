"""The quasi-harmonic Debye model gives published values, and a reason where it has none."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from engine.materials.crystal import Crystal
from engine.physics.debye import DebyeSettings, calculate_kappa, debye_model, method
from engine.physics.energy_volume import EquationOfState, equation_of_state
from engine.physics.outcome import Calculated, CalculationError, Failed
from engine.physics.potential import Potential
from engine.physics.potentials import load_potential
from tests.engine.physics.salts import birch, diamond, rocksalt

PUBLISHED = {
    "LiF": 9.96, "NaF": 4.67, "NaCl": 2.12, "NaBr": 1.33, "NaI": 0.851, "KF": 2.21, "KCl": 1.25, "KBr": 0.842,
    "KI": 0.525, "RbCl": 0.837, "RbBr": 0.558, "MgO": 44.5,
}  # fmt: skip
"""W/(m K) at 300 K of the same model on density-functional energies: Toher et al., Phys. Rev. B 90, 174107 (2014)."""


class Given(Potential):
    """Energies by a function of the volume."""

    def __init__(self, energy):
        self.name, self.sha256, self.elements = "given", "0" * 64, frozenset({"Na", "Cl"})
        self._energy = energy

    def calculator(self):
        raise NotImplementedError

    def energies(self, crystals):
        return np.array([self._energy(c.volume) for c in crystals])


@pytest.mark.parametrize("formula", PUBLISHED)
def test_rigid_ions_give_nearly_what_density_functionals_do(formula):
    outcome = calculate_kappa(rocksalt(formula), load_potential("rigid-ion"))
    assert isinstance(outcome, Calculated)
    assert outcome.kappa == pytest.approx(PUBLISHED[formula], rel=0.2)


def test_silicon_by_tersoff():
    """26.19 W/(m K) published; experiment 150: the model ranks, it does not measure."""
    outcome = calculate_kappa(diamond("Si", 5.43), load_potential("tersoff:Si"))
    assert isinstance(outcome, Calculated)
    assert outcome.kappa == pytest.approx(26.19, rel=0.1)


def test_debye_temperature_is_that_of_an_isotropic_solid():
    """Theta = hbar/k (6 pi^2 n/V)^(1/3) v, with the mean speed of sound at a Poisson ratio of 1/4."""
    curve = equation_of_state(rocksalt("NaCl"), load_potential("rigid-ion").energies)
    found = debye_model(curve, [22.99, 35.45], 300.0)
    volume = found.volume * 1e-30
    density = 58.44 * 1.66053906660e-27 / volume
    modulus = curve.bulk_modulus(found.volume) * 1e9
    shear = 3 * modulus * (1 - 0.5) / (2 * 1.25)
    longitudinal = modulus + 4 / 3 * shear
    speed = (3 / (2 * (density / shear) ** 1.5 + (density / longitudinal) ** 1.5)) ** (1 / 3)
    theta = 1.054571817e-34 / 1.380649e-23 * (6 * np.pi**2 * 2 / volume) ** (1 / 3) * speed
    assert found.debye_temperature == pytest.approx(theta, rel=1e-4)


def test_it_does_not_depend_on_the_cell():
    primitive = rocksalt("NaCl")
    double = primitive.to_structure() * (2, 1, 1)
    one, two = (calculate_kappa(c, load_potential("rigid-ion")) for c in (primitive, Crystal.from_structure(double)))
    assert two.kappa == pytest.approx(one.kappa, rel=1e-6)


def test_range_of_volumes_makes_no_difference_to_an_analytic_potential():
    found = [
        calculate_kappa(rocksalt("NaCl"), load_potential("rigid-ion"), DebyeSettings(strain=s)) for s in (0.04, 0.1)
    ]
    assert found[0].kappa == pytest.approx(found[1].kappa, rel=0.02)


def test_hotter_conducts_less():
    kappa = [
        calculate_kappa(rocksalt("MgO"), load_potential("rigid-ion"), DebyeSettings(temperature=t)).kappa
        for t in (300.0, 600.0)
    ]
    assert kappa[1] < kappa[0] / 2


def test_provenance_is_json_and_says_what_decides():
    potential = load_potential("rigid-ion:NaCl")
    outcome = calculate_kappa(rocksalt("NaCl"), potential)
    told = json.loads(json.dumps(outcome.provenance))
    assert told["potential"] == {"name": "rigid-ion:NaCl", "sha256": potential.sha256}
    assert told["settings"]["strain"] == 0.1
    assert outcome.core_seconds > 0
    assert method(potential, DebyeSettings()) != method(potential, DebyeSettings(strain=0.05))


@pytest.mark.parametrize(
    ("energy", "settings", "reason"),
    [
        (lambda v: math.nan, {}, "bad_output"),
        (lambda v: 1 / v, {}, "not_converged"),
        (lambda v: birch(v, 44.9, 2.0, 7.0), {}, "not_converged"),
        (lambda v: 0.5 * v * math.log(v / 44.9) ** 2, {"floor": 1e6, "ceiling": 1e7}, "below_floor"),
        (lambda v: 60 * (v / 44.9 - 1) ** 2, {"ceiling": 0.06}, "rejected"),
    ],
    ids=["not finite", "no minimum", "unbound at 300 K", "below the floor", "above the ceiling"],
)
def test_failures_have_a_reason(energy, settings, reason):
    outcome = calculate_kappa(rocksalt("NaCl"), Given(energy), DebyeSettings(**settings))
    assert isinstance(outcome, Failed), outcome
    assert outcome.reason == reason
    json.dumps(outcome.provenance, allow_nan=False)


def test_unknown_elements_are_rejected_with_the_name():
    outcome = calculate_kappa(diamond("Ge", 5.66), load_potential("tersoff:Si"))
    assert isinstance(outcome, Failed)
    assert (outcome.reason, "does not know Ge" in outcome.message) == ("rejected", True)


def test_a_calculator_that_raises_fails():
    def broken(volume):
        raise RuntimeError("licence expired")

    outcome = calculate_kappa(rocksalt("NaCl"), Given(broken))
    assert isinstance(outcome, Failed)
    assert outcome.reason == "calculator_error"
    assert "licence expired" in outcome.message


def test_a_curve_without_minimum_is_no_estimate():
    volumes = np.linspace(40, 50, 11)
    with pytest.raises(CalculationError, match="no minimum"):
        debye_model(EquationOfState.fit(volumes, 1 / volumes), [23.0, 35.5], 300.0)


@pytest.mark.parametrize(
    "settings", [{"points": 4}, {"strain": 0.3}, {"temperature": 0.0}, {"poisson": 0.5}, {"reach": -0.1}]
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        DebyeSettings(**settings)
