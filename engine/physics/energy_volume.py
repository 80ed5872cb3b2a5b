"""Energy against volume of a crystal at fixed fractional coordinates, and the equation of state through it.

The equation of state is Birch's: the energy is a cubic polynomial of V^(-2/3), a linear fit (F. Birch, Phys. Rev. 71,
809 (1947)).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from engine.materials.crystal import Crystal
from engine.physics.outcome import CalculationError

if TYPE_CHECKING:
    from numpy.polynomial import Polynomial
    from numpy.typing import NDArray

Energies = Callable[[Sequence[Crystal]], "NDArray[np.float64]"]
EV_PER_A3 = 160.21766208  # GPa
_CURVES = 6
_CENTERED = 0.02  # relative distance of the minimum from the middle length of the curve
_ROUGH = 0.05  # largest residual over the span of energies; learned potentials have 0.003, analytic ones 0.0002


@dataclass(frozen=True, eq=False)
class EquationOfState:
    """Energy in eV of a cell against its volume in cubic Angstrom, fitted to ``volumes`` and ``energies``."""

    volumes: NDArray[np.float64]
    energies: NDArray[np.float64]
    center: float
    """Volume at which the polynomial's variable is 1."""
    polynomial: Polynomial
    """Energy as a polynomial of (V / center)^(-2/3)."""

    @classmethod
    def fit(cls, volumes: NDArray[np.float64], energies: NDArray[np.float64]) -> EquationOfState:
        """Fit Birch's equation; at least five volumes."""
        from numpy.polynomial import Polynomial

        center = float(np.median(volumes))
        polynomial = Polynomial.fit((volumes / center) ** (-2 / 3), energies, 3).convert()
        return cls(volumes, energies, center, polynomial)

    @cached_property
    def residual(self) -> float:
        """Root mean square residual of the fit, relative to the span of the energies."""
        missed = self.energies - self.energy(self.volumes)
        return float(np.sqrt((missed**2).mean()) / np.ptp(self.energies))

    @cached_property
    def minimum(self) -> float | None:
        """Volume of the lowest energy inside the fitted range; None where there is none."""
        volumes = [self.center * y**-1.5 for y in self._stationary() if y > 0]
        inside = [v for v in volumes if self.volumes.min() <= v <= self.volumes.max() and self.bulk_modulus(v) > 0]
        return min(inside, key=lambda v: float(self.energy(v)), default=None)

    def energy(self, volume: float | NDArray[np.float64]) -> NDArray[np.float64]:
        """Energy in eV."""
        return np.asarray(self.polynomial(self._variable(volume)))

    def bulk_modulus(self, volume: float) -> float:
        """V E''(V) in GPa."""
        return float(self._curvature(self._variable(volume))) / volume * EV_PER_A3

    def gruneisen(self, volume: float) -> float:
        """Slater's -dln(theta)/dln(V) for a Debye temperature that goes with V^(1/6) B^(1/2)."""
        y = float(self._variable(volume))
        return (1 + y * float(self._curvature.deriv()(y)) / float(self._curvature(y))) / 3

    def _stationary(self) -> list[float]:
        """Roots of the polynomial's derivative, a quadratic whose first coefficient vanishes where B' is 4.

        Without the usual formula's cancellation (W. H. Press et al., Numerical Recipes, 3rd ed., 2007, eq. 5.6.4).
        """
        c, b, a = np.append(self.polynomial.deriv().coef, [0.0, 0.0])[:3].tolist()
        discriminant = b * b - 4 * a * c
        if discriminant < 0:
            return []
        q = -(b + math.copysign(math.sqrt(discriminant), b)) / 2
        return [above / below for above, below in ((q, a), (c, q)) if below]

    @cached_property
    def _curvature(self) -> Polynomial:
        """V^2 E''(V) in eV as a polynomial of the same variable."""
        from numpy.polynomial import Polynomial

        y, slope = Polynomial([0, 1]), self.polynomial.deriv()
        return y**2 * slope.deriv() * (4 / 9) + y * slope * (10 / 9)

    def _variable(self, volume: float | NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(volume / self.center) ** (-2 / 3)


def scaled(crystal: Crystal, factor: float) -> Crystal:
    """Stretch all lengths of ``crystal`` by ``factor``, at the same fractional coordinates."""
    return Crystal(crystal.lattice * factor, crystal.numbers, crystal.frac_coords)


def equation_of_state(
    crystal: Crystal, energies: Energies, points: int = 11, strain: float = 0.1, reach: float = 0.1
) -> EquationOfState:
    """Fit an equation of state around the volume of lowest energy.

    Parameters
    ----------
    crystal
        Initial crystal; all lengths are scaled alike, angles and fractional coordinates are fixed.
    energies
        Function that gives the energies of cells in eV.
    points
        Number of volumes on the curve.
    strain
        Largest change of a length on either side of the middle.
    reach
        Largest relative change of a length from that of ``crystal`` to the minimum; 0 keeps the middle of the curve.

    Raises
    ------
    CalculationError
        ``bad_output`` for energies that are not finite or not smooth, ``not_converged`` where no minimum is in reach.
    """
    middle = 1.0
    for _ in range(_CURVES):
        lengths = middle * np.linspace(1 - strain, 1 + strain, points)
        found = _finite(energies([scaled(crystal, x) for x in lengths.tolist()]), crystal)
        fit = EquationOfState.fit(crystal.volume * lengths**3, found)
        lowest = None if fit.minimum is None else (fit.minimum / crystal.volume) ** (1 / 3)
        if lowest is not None and (reach == 0 or abs(lowest / middle - 1) < _CENTERED):
            break
        middle = lowest or float(lengths[np.argmin(found)])
        if abs(middle - 1) > reach:
            raise _no_minimum(crystal, max(reach, strain))
    else:
        raise _no_minimum(crystal, max(reach, strain))
    if fit.residual > _ROUGH:
        raise CalculationError(
            "bad_output",
            f"the energy of {crystal.formula} is not a smooth curve: the fit is off by {fit.residual:.0%} of its span",
        )
    return fit


def _no_minimum(crystal: Crystal, reach: float) -> CalculationError:
    return CalculationError(
        "not_converged", f"the energy of {crystal.formula} has no minimum within {reach:.0%} of its lattice constants"
    )


def _finite(energies: NDArray[np.float64], crystal: Crystal) -> NDArray[np.float64]:
    if not np.isfinite(energies).all():
        raise CalculationError("bad_output", f"the potential gives {crystal.formula} an energy that is not finite")
    return energies
