"""The equation of state: exact on Birch's own curve, honest where there is no minimum."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.physics.energy_volume import EquationOfState, equation_of_state, scaled
from engine.physics.outcome import CalculationError
from tests.engine.physics.salts import birch, rocksalt

CRYSTAL = rocksalt("NaCl")


def energies_of(v0: float, modulus: float = 25.0, slope: float = 5.0):
    return lambda crystals: np.array([birch(c.volume, v0, modulus, slope) for c in crystals])


@example(v0=142.25, modulus=5.5, slope=4.0)  # the cubic term vanishes
@given(v0=st.floats(10, 200), modulus=st.floats(2, 400), slope=st.floats(2.5, 6.5))
def test_fit_recovers_birchs_curve(v0, modulus, slope):
    volumes = v0 * np.linspace(0.9, 1.1, 11)
    fit = EquationOfState.fit(volumes, birch(volumes, v0, modulus, slope))
    assert fit.minimum == pytest.approx(v0, rel=1e-6)
    assert fit.bulk_modulus(v0) == pytest.approx(modulus, rel=1e-5)
    # Slater: gamma = B' / 2 - 1 / 6 at the minimum
    assert fit.gruneisen(v0) == pytest.approx(slope / 2 - 1 / 6, abs=1e-4)
    assert fit.residual < 1e-8


def test_scaling_keeps_fractional_coordinates():
    larger = scaled(CRYSTAL, 1.1)
    assert larger.volume == pytest.approx(1.1**3 * CRYSTAL.volume)
    np.testing.assert_array_equal(larger.frac_coords, CRYSTAL.frac_coords)


@pytest.mark.parametrize("length", [0.93, 1.0, 1.08])
def test_curve_moves_to_the_minimum(length):
    fit = equation_of_state(CRYSTAL, energies_of(CRYSTAL.volume * length**3), strain=0.03)
    assert fit.minimum == pytest.approx(CRYSTAL.volume * length**3, rel=1e-6)
    middle = np.median(fit.volumes) ** (1 / 3)
    assert middle == pytest.approx(fit.minimum ** (1 / 3), rel=0.02)


def test_without_reach_the_curve_stays():
    fit = equation_of_state(CRYSTAL, energies_of(CRYSTAL.volume * 1.05), reach=0)
    assert np.median(fit.volumes) == pytest.approx(CRYSTAL.volume)


@pytest.mark.parametrize(
    ("energies", "reason"),
    [
        (lambda crystals: np.full(len(crystals), np.nan), "bad_output"),
        (lambda crystals: np.array([1 / c.volume for c in crystals]), "not_converged"),
        (lambda crystals: -energies_of(CRYSTAL.volume)(crystals), "not_converged"),
        (energies_of(CRYSTAL.volume * 1.5), "not_converged"),
        (lambda crystals: np.arange(len(crystals)) % 2 + energies_of(CRYSTAL.volume, 500)(crystals), "bad_output"),
    ],
    ids=["not finite", "repulsive", "a maximum", "minimum out of reach", "rough"],
)
def test_what_is_no_equation_of_state_has_a_reason(energies, reason):
    with pytest.raises(CalculationError) as error:
        equation_of_state(CRYSTAL, energies)
    assert error.value.reason == reason
    assert "NaCl" in str(error.value)
