"""What phonons say beside the conductivity: mean free paths and Grueneisen parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from phono3py import Phono3py

SHARES = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Shares of the conductivity of particles at which the accumulation over mean free paths is kept."""
GRUENEISEN_MESH = 15.0
"""Length in Angstrom whose inverse is the spacing of q-points for Grueneisen parameters."""
_BOLTZMANN_PER_PLANCK = 0.0208366
"""k_B / h, THz per kelvin."""


def details(phonons: Phono3py, temperature: float) -> dict[str, object]:
    """Accumulation of the conductivity over mean free path, and mean Grueneisen parameters, JSON-ready.

    Parameters
    ----------
    phonons
        After :meth:`run_thermal_conductivity`.
    temperature
        Kelvin; modes count by their heat capacity at it.

    Returns
    -------
    found
        ``mean_free_path_nm``: for each of :data:`SHARES` the mean free path up to which modes carry that share of the
        conductivity of particles; ``gruneisen_mean`` and ``gruneisen_rms``: over modes of real frequency, weighted by
        heat capacity; not where second order has a supercell of its own.
    """
    found: dict[str, object] = {"mean_free_path_nm": _accumulation(phonons)}
    if phonons.phonon_supercell_matrix is None:  # phono3py takes both force constants in one supercell
        found["gruneisen_mean"], found["gruneisen_rms"] = _gruneisen(phonons, temperature)
    return found


def _accumulation(phonons: Phono3py) -> dict[str, float]:
    """Mean free path in nm up to which modes carry a share of the conductivity of particles, averaged over directions.

    A mode of group velocity v, heat capacity C and linewidth g (half width, THz) has the lifetime 1 / (4 pi g) and
    carries C v^2 / (3 * 4 pi g).
    """
    found = phonons.thermal_conductivity
    widths = found.gamma[0, 0] + (0.0 if found.gamma_isotope is None else found.gamma_isotope[0])
    speed = np.linalg.norm(found.group_velocities, axis=2)  # THz Angstrom, 100 m/s
    # the three acoustic modes at the zone centre have no width, and carry nothing
    with_width = widths > 0
    lifetime = np.divide(1.0, 4 * np.pi * widths, out=np.zeros_like(widths), where=with_width)  # ps
    weight = found.mode_heat_capacities[0] * speed**2 * lifetime * np.asarray(found.grid_weights)[:, None]
    path = (speed * lifetime / 10)[with_width]
    order = np.argsort(path)
    carried = np.cumsum(weight[with_width][order])
    if not carried[-1] > 0:
        return {}
    at = np.searchsorted(carried / carried[-1], SHARES)
    return {f"{share:g}": float(path[order][row]) for share, row in zip(SHARES, at, strict=True)}


def _gruneisen(phonons: Phono3py, temperature: float) -> tuple[float, float]:
    """Mean and root mean square of the mode Grueneisen parameters, weighted by heat capacity."""
    from phono3py.phonon3.gruneisen import Gruneisen
    from phonopy.phonon.grid import BZGrid, get_ir_grid_points, get_qpoints_from_bz_grid_points

    cell = {"lattice": phonons.primitive.cell, "symmetry_dataset": phonons.primitive_symmetry.dataset}
    grid = BZGrid(BZGrid(GRUENEISEN_MESH, **cell).D_diag | 1, **cell)
    points, counts, _ = get_ir_grid_points(grid)
    modes = Gruneisen(phonons.fc2, phonons.fc3, phonons.supercell, phonons.primitive, nac_params=phonons.nac_params)
    modes.set_qpoints(get_qpoints_from_bz_grid_points(grid.grg2bzg[points].astype(np.int64), grid))
    modes.run()
    frequencies = np.asarray(modes.frequencies)
    own = np.trace(np.asarray(modes.gruneisen_parameters), axis1=2, axis2=3) / 3
    real = frequencies > 0.05  # acoustic modes at the zone centre have none
    weight = np.where(real, _heat_capacity(np.where(real, frequencies, 1.0), temperature), 0.0) * counts[:, None]
    mean, square = (float((weight * own**power)[real].sum() / weight.sum()) for power in (1, 2))
    return mean, float(np.sqrt(square))


def _heat_capacity(frequencies: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    """Of modes by their frequencies in THz, in units of k_B."""
    x = frequencies / (_BOLTZMANN_PER_PLANCK * temperature)
    return np.asarray((x / 2 / np.sinh(x / 2)) ** 2)
