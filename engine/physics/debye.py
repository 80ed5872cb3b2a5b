"""Quasi-harmonic Debye model (AGL): thermal conductivity from an energy-volume curve, in seconds.

M. A. Blanco, E. Francisco and V. Luana, Comput. Phys. Commun. 158, 57 (2004), and C. Toher et al., Phys. Rev. B 90,
174107 (2014). Useful for ranking crystals; first-principles values are often several times larger.

Implemented here rather than by ``pymatgen.analysis.quasiharmonic``: there (2026.10.24) the Debye temperature goes with
V^(-1/6), not V^(1/6), and with a bulk modulus that does not change with volume; on the same curves it gives NaCl 5.2
and MgO 170 W/(m K), published are 2.1 and 44.5. ``AGL.md`` in this folder has the table of agreement.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import UnknownElementError
from engine.materials.elements import ATOMIC_MASS
from engine.materials.identity import standardise
from engine.physics.energy_volume import EquationOfState, equation_of_state
from engine.physics.outcome import Calculated, CalculationError, Failed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.materials.crystal import Crystal
    from engine.physics.potential import Potential

METHOD = "quasi-harmonic Debye model"
VERSION = 1
"""Version of the method, increased when the same settings give another number."""

_BOLTZMANN = 1.380649e-23  # J/K
_HBAR = 1.054571817e-34  # J s
_EV = 1.602176634e-19  # J
_ATOMIC_MASS_UNIT = 1.66053906660e-27  # kg


@dataclass(frozen=True)
class DebyeSettings:
    """Settings of the calculation."""

    temperature: float = 300.0
    """Kelvin."""
    points: int = 11
    """Number of volumes on the curve."""
    strain: float = 0.1
    """Largest change of a length along it. Between 3 % and 10 % it makes no difference to an analytic potential; a
    learned one is wavy on a small scale, and on 10 % its kappa is nearer to the published by a factor of 1.3."""
    reach: float = 0.1
    """How far lengths may relax to the energy minimum, angles and fractional coordinates fixed; 0 relaxes nothing."""
    poisson: float = 0.25
    """Poisson ratio; that of Toher et al. for every crystal."""
    floor: float = 0.05
    """W/(m K); lower values are refused as an error of the potential: no crystal conducts less at room temperature."""
    ceiling: float = 1_000.0
    """W/(m K); higher values are refused; three times the model's value of diamond."""

    def __post_init__(self) -> None:
        """Refuse settings that no calculation can have."""
        for name in ("temperature", "strain", "ceiling"):
            if not 0 < getattr(self, name) < np.inf:
                raise ValueError(f"{name} must be positive and finite, received {getattr(self, name)}")
        if self.points < 5:
            raise ValueError(f"points must be at least 5 for a fit with 4 parameters, received {self.points}")
        if self.strain > 0.15 or not 0 <= self.reach <= 0.3:
            raise ValueError(f"strain {self.strain} must be at most 0.15, and reach {self.reach} between 0 and 0.3")
        if not -1 < self.poisson < 0.5:
            raise ValueError(f"poisson must lie between -1 and 0.5, received {self.poisson}")


@dataclass(frozen=True)
class DebyeEstimate:
    """Results of the model for a crystal at one temperature."""

    kappa: float
    """W/(m K)."""
    debye_temperature: float
    """K."""
    gruneisen: float
    bulk_modulus: float
    """GPa, without vibrations."""
    volume: float
    """Volume of the primitive cell at the temperature, cubic Angstrom."""
    expansion: float
    """Relative change of the volume against that of lowest energy."""
    residual: float
    """Residual of the equation of state, relative to the span of the energies."""


def calculate_kappa(
    crystal: Crystal, potential: Potential, settings: DebyeSettings | None = None
) -> Calculated | Failed:
    """Estimate the lattice thermal conductivity of a crystal.

    Parameters
    ----------
    crystal
        A cell in any setting; it is standardised to its primitive cell first, on which the model depends.
    potential
        Potential that gives the energies.
    settings
        Settings; the defaults if not given.

    Returns
    -------
    outcome
        ``kappa`` in W/(m K); provenance holds settings, potential and the other properties. Or the failure with its
        reason: ``rejected`` (unknown elements, a value beyond the ceiling), ``calculator_error``, ``bad_output``
        (energies not finite or not smooth), ``not_converged`` (no minimum in reach, unbound at this temperature),
        ``below_floor``.
    """
    settings = settings or DebyeSettings()
    start = time.process_time()
    found: dict[str, object] = {"potential": potential.describe(), "settings": asdict(settings), "version": VERSION}
    try:
        result = estimate(crystal, potential, settings)
        found["result"] = asdict(result)
        _require_physical(result, settings)
    except CalculationError as error:
        return Failed(error.reason, error.message, found, time.process_time() - start)
    return Calculated(result.kappa, settings.temperature, METHOD, found, time.process_time() - start)


def method(potential: Potential, settings: DebyeSettings) -> str:
    """Everything that determines a result, in one line: equal lines mean equal numbers."""
    changed = {k: v for k, v in asdict(settings).items() if v != getattr(DebyeSettings(), k)}
    details = "".join(f", {name} {value:g}" for name, value in changed.items())
    return f"{METHOD} {VERSION}, {potential.name} {potential.sha256[:12]}{details}"


def estimate(crystal: Crystal, potential: Potential, settings: DebyeSettings) -> DebyeEstimate:
    """All results of the model; raises :class:`CalculationError`."""
    try:
        potential.check_elements(crystal)
    except UnknownElementError as error:
        raise CalculationError("rejected", str(error)) from error
    primitive, _ = standardise(crystal)
    try:
        curve = equation_of_state(primitive, potential.energies, settings.points, settings.strain, settings.reach)
    except CalculationError:
        raise
    except Exception as error:  # a calculator may raise anything
        message = f"the potential raised {type(error).__name__}: {error}"
        raise CalculationError("calculator_error", message) from error
    return debye_model(curve, ATOMIC_MASS[primitive.numbers], settings.temperature, settings.poisson)


def debye_model(
    curve: EquationOfState, masses: Sequence[float] | NDArray[np.float64], temperature: float, poisson: float = 0.25
) -> DebyeEstimate:
    """Apply the model to an equation of state of a primitive cell.

    Parameters
    ----------
    curve
        Energy against volume.
    masses
        Atomic masses in u of the n atoms of the cell.
    temperature
        Kelvin.
    poisson
        Poisson ratio.

    Raises
    ------
    CalculationError
        ``not_converged`` if the free energy has no minimum on the curve.
    """
    mean_mass, n = float(np.mean(masses)) * _ATOMIC_MASS_UNIT, len(masses)
    start = curve.minimum
    if start is None:
        raise CalculationError("not_converged", "the energy has no minimum on the curve")
    volume = _equilibrium(curve, mean_mass, n, temperature, poisson)
    theta = _debye_temperature(curve, volume, mean_mass, n, poisson)
    gruneisen = curve.gruneisen(volume)
    return DebyeEstimate(
        kappa=_conductivity(theta * n ** (-1 / 3), gruneisen, volume, mean_mass, temperature),
        debye_temperature=theta,
        gruneisen=gruneisen,
        bulk_modulus=curve.bulk_modulus(start),
        volume=volume,
        expansion=volume / start - 1,
        residual=curve.residual,
    )


def _debye_temperature(curve: EquationOfState, volume: float, mean_mass: float, n: int, poisson: float) -> float:
    """Equation 6 of Blanco et al., in K."""
    shear = (2 / 3 * (1 + poisson) / (1 - 2 * poisson)) ** 1.5
    longitudinal = (1 / 3 * (1 + poisson) / (1 - poisson)) ** 1.5
    f = (3 / (2 * shear + longitudinal)) ** (1 / 3)
    density = 6 * np.pi**2 * (volume * 1e-30) ** 0.5 * n
    speed = np.sqrt(curve.bulk_modulus(volume) * 1e9 / (mean_mass * n))
    return float(_HBAR / _BOLTZMANN * density ** (1 / 3) * f * speed)


def _conductivity(theta: float, gruneisen: float, volume: float, mean_mass: float, temperature: float) -> float:
    """Equations 17 and 18 of Toher et al.: kappa at the acoustic Debye temperature ``theta``, times theta / T."""
    anharmonic = gruneisen**2 - 0.514 * gruneisen + 0.228
    prefactor = 0.849 * 3 * 4 ** (1 / 3) / (20 * np.pi**3) * (_BOLTZMANN / _HBAR) ** 2 * _BOLTZMANN / _HBAR
    at_theta = prefactor * theta**2 * mean_mass * (volume * 1e-30) ** (1 / 3) / anharmonic
    return float(at_theta * theta / temperature)


def _equilibrium(curve: EquationOfState, mean_mass: float, n: int, temperature: float, poisson: float) -> float:
    """Volume of lowest free energy; raises where it lies at the end of the curve."""
    from scipy.optimize import minimize_scalar

    def free_energy(volume: float) -> float:
        if curve.bulk_modulus(volume) <= 0:
            return np.inf
        y = _debye_temperature(curve, volume, mean_mass, n, poisson) / temperature
        vibrations = 9 / 8 * y + 3 * np.log1p(-np.exp(-y)) - _debye_integral(y)
        return float(curve.energy(volume)) + n * _BOLTZMANN / _EV * temperature * vibrations

    lowest, highest = float(curve.volumes.min()), float(curve.volumes.max())
    grid = np.linspace(lowest, highest, 41)
    values = np.array([free_energy(v) for v in grid.tolist()])
    k = int(np.argmin(values))
    bound = 0 < k < len(grid) - 1 and np.isfinite(values[k + 1])
    if not bound:
        raise CalculationError(
            "not_converged", f"the free energy at {temperature:g} K has no minimum on the curve: the crystal is unbound"
        )
    found = minimize_scalar(free_energy, bounds=(grid[k - 1], grid[k + 1]), method="bounded", options={"xatol": 1e-6})
    return float(found.x)


def _debye_integral(y: float) -> float:
    """3 / y^3 times the integral of x^3 / (e^x - 1) from 0 to y."""
    from scipy.integrate import quad

    return float(3 / y**3 * quad(lambda x: x**3 / np.expm1(x) if x else 0.0, 0, y)[0])


def _require_physical(result: DebyeEstimate, settings: DebyeSettings) -> None:
    if result.kappa < settings.floor:
        raise CalculationError("below_floor", f"kappa {result.kappa:.2g} is below {settings.floor:g} W/(m K)")
    if result.gruneisen <= 0 or result.kappa > settings.ceiling:
        raise CalculationError(
            "rejected",
            f"kappa {result.kappa:.3g} W/(m K) with a Grueneisen parameter of {result.gruneisen:.2f} is not physical",
        )
