"""Reader of ``kappa-*.hdf5`` of phono3py: the conductivity, and the method that gave it.

Format: https://phonopy.github.io/phono3py/hdf5_howto.html. Tensors in the order xx yy zz yz xz xy, W/(m K).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.exceptions import ResultFileError
from campaigns.exchange.manifest import Phonons, file_sha256

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray

COMPONENTS = ("xx", "yy", "zz", "yz", "xz", "xy")
SAME_TEMPERATURE = 0.01
"""Tolerance of temperatures, kelvin."""
SUSPECT_VERSIONS = ((3, 16), (3, 22))
"""phono3py versions, first to last, with an error in a third-order routine."""
NO_BOUNDARY = 1e6
"""Micrometre; phono3py's command line writes this mean free path, one metre, where no boundary was set."""
_TOTALS = ("kappa", "kappa_TOT_exact", "kappa_TOT_RTA")
"""Names of the total conductivity; with the Wigner term, phono3py 2 and 3 wrote the last two."""
_PARTS = (
    "kappa_RTA",
    "kappa_P_exact",
    "kappa_P_RTA",
    "kappa_C",
    "kappa_intra",
    "kappa_intra_exact",
    "kappa_intra_RTA",
    "kappa_inter",
)
"""Conductivities beside the total: of particles (P, intra-band), of coherence (C, inter-band), of a simpler solver."""
_POINTS = 20
"""Number of points of the table of conductivity over mean free path."""
_RANGE = (1e-3, 1 - 1e-6)
"""Share of the conductivity at its first and its last point."""


class Term(StrEnum):
    """Datasets that indicate a method beyond three phonons, relaxation times and tetrahedra."""

    EXACT = "direct solution (LBTE)"
    ISOTOPES = "isotope scattering"
    COHERENCE = "coherence between bands (Wigner)"
    BOUNDARY = "boundary scattering"
    SMEARING = "smearing"
    AVERAGED = "averaged interaction"
    ELECTRONS = "electron-phonon scattering"
    GENERALISED = "generalised mesh"


_SAID_BY: Mapping[Term, tuple[str, ...]] = MappingProxyType(
    {
        Term.EXACT: (
            *("kappa_RTA", "mode_kappa_RTA", "f_vector", "collision_matrix"),
            *("kappa_TOT_exact", "kappa_P_exact", "mode_kappa_P_exact", "kappa_intra_exact"),
        ),
        Term.ISOTOPES: ("gamma_isotope",),
        Term.COHERENCE: (
            *("kappa_TOT_exact", "kappa_P_exact", "mode_kappa_P_exact", "kappa_intra_exact"),
            *("kappa_TOT_RTA", "kappa_P_RTA", "mode_kappa_P_RTA", "kappa_intra_RTA"),
            *("kappa_C", "mode_kappa_C", "kappa_inter", "kappa_intra", "velocity_operator"),
        ),
        Term.BOUNDARY: ("boundary_mfp",),
        Term.SMEARING: ("sigma", "sigma_cutoff_width"),
        Term.AVERAGED: ("ave_pp",),
        Term.ELECTRONS: ("gamma_elph",),
        Term.GENERALISED: ("grid_matrix", "P_matrix", "Q_matrix"),
    }
)
"""Datasets that determine the method, as phono3py 1 to 4 name them."""
_NEUTRAL = frozenset(
    [
        *("version", "temperature", "mesh", "grid_point", "qpoint", "weight", "kappa_unit_conversion"),
        *("frequency", "group_velocity", "gv_by_gv", "mean_free_path", "heat_capacity"),
        *("kappa", "mode_kappa", "gamma", "gamma_N", "gamma_U"),
    ]
)
"""Datasets that every method may write."""
_CONTRIBUTION = re.compile(r"(?:mode_)?kappa|gamma|boundary|collision|sigma")
"""Prefixes of contributions to conductivity or scattering; an unknown one counts as another method."""
_CHOSEN = frozenset({Term.EXACT, Term.ISOTOPES, Term.COHERENCE})
"""Method settings accepted from a file given by name, without exported settings to compare with."""


@dataclass(frozen=True)
class Kappa:
    """Contents of one ``kappa-*.hdf5``."""

    name: str
    sha256: str
    written_at: str
    """Time of the file, UTC, ISO 8601."""
    temperatures: NDArray[np.float64]
    """``T``, Kelvin."""
    tensors: NDArray[np.float64]
    """``T x 6``, W/(m K), in the order of :data:`COMPONENTS`."""
    terms: Mapping[str, str]
    """Method beyond the default, with the value in the file (``sigma 0.5 THz``)."""
    mesh: tuple[int, ...]
    """q-point mesh: three divisions, or nine numbers of a generalised mesh."""
    version: str
    """Version of phono3py."""
    frequencies: tuple[float, float] | None
    """Lowest and highest frequency on the mesh, THz; NaN where any is NaN."""
    bands: int | None
    q_points: int
    """Number of irreducible q-points with frequencies."""
    parts: Mapping[str, NDArray[np.float64]]
    """Conductivities beside the total by their name, ``T x 6``."""
    numbers: Mapping[str, float]
    """``boundary_mfp`` (micrometre), ``sigma`` (THz) and ``sigma_cutoff_width``, where they are set."""
    accumulated: Mapping[float, dict[str, list[float]]]
    """Share of the conductivity by mean free path (nm), by temperature (K), where the modes are kept."""
    strangers: tuple[str, ...] = ()
    """Unknown datasets that do not seem to change the conductivity."""
    given_method: str = ""
    """The user's name for its method."""

    def at(self, temperature: float) -> NDArray[np.float64] | None:
        """Tensor at a temperature in Kelvin, six components; None where the file has none."""
        row = self.row(temperature)
        return None if row is None else self.tensors[row]

    def row(self, temperature: float) -> int | None:
        """Index of a temperature in kelvin; None where the file has none."""
        near = np.flatnonzero(np.abs(self.temperatures - temperature) <= SAME_TEMPERATURE)
        return int(near[0]) if near.size else None

    @property
    def method(self) -> str:
        """Name of the method, ``phono3py RTA``."""
        return self.given_method or f"phono3py {self.solver}" + (", coherence" if self.interband else "")

    @property
    def solver(self) -> str:
        """``RTA`` or ``LBTE``."""
        return "LBTE" if Term.EXACT in self.terms else "RTA"

    @property
    def isotope(self) -> bool:
        """Whether isotopes scatter."""
        return Term.ISOTOPES in self.terms

    @property
    def interband(self) -> bool:
        """Whether the Wigner term is part of it."""
        return Term.COHERENCE in self.terms

    @property
    def is_suspect(self) -> bool:
        """Whether it was written by a version with the error in third order."""
        number = re.match(r"(\d+)\.(\d+)", self.version)
        first, last = SUSPECT_VERSIONS
        return number is not None and first <= (int(number[1]), int(number[2])) <= last


def differences(kappa: Kappa, phonons: Phonons | None) -> list[str]:
    """How the method differs from the exported one.

    phono3py's version may differ, and there may be more temperatures. Without exported settings mesh, solver,
    isotopes and coherence are accepted as they are.
    """
    found = {term: words for term, words in kappa.terms.items() if phonons or term not in _CHOSEN}
    told = []
    if phonons:
        if kappa.mesh and kappa.mesh != phonons.mesh and Term.GENERALISED not in found:
            told.append(f"mesh {kappa.mesh} instead of {phonons.mesh}")
        if kappa.solver != phonons.solver.upper():
            told.append(f"solver {kappa.solver} instead of {phonons.solver.upper()}")
        if kappa.isotope != phonons.isotope:
            told.append(f"isotope {kappa.isotope} instead of {phonons.isotope}")
        if absent := [t for t in phonons.temperatures if kappa.at(t) is None]:
            told.append(f"no value at {', '.join(f'{t:g}' for t in absent)} K (it has {listed(kappa)})")
        found = {term: words for term, words in found.items() if term not in (Term.EXACT, Term.ISOTOPES)}
    return told + [f"{term} ({words})" for term, words in found.items()]


def listed(kappa: Kappa) -> str:
    """Its temperatures as text."""
    return ", ".join(f"{t:g}" for t in kappa.temperatures[:12]) or "none"


def read_kappa(path: Path, temperatures: Sequence[float] = ()) -> Kappa:
    """Read a ``kappa-*.hdf5`` of phono3py, RTA or LBTE, of any version that writes HDF5.

    Parameters
    ----------
    path
        The file.
    temperatures
        Temperatures in kelvin at which the conductivity is accumulated over mean free paths.

    Raises
    ------
    ResultFileError
        If it is truncated, lacks what a conductivity needs, or links to other files.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return _read(file, path, temperatures)
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise ResultFileError(
            f"{path.name} cannot be read ({first_line(error)}); it is truncated or damaged"
        ) from error


def first_line(error: Exception) -> str:
    """First line of an exception's message."""
    return str(error).strip("'\"").splitlines()[0][:200] if str(error).strip("'\"") else type(error).__name__


def _read(file: h5py.File, path: Path, wanted: Sequence[float]) -> Kappa:
    names = [name for name in _TOTALS if name in file]
    if not names or "temperature" not in file:
        raise ResultFileError(
            f"{path.name} holds no kappa over temperature (it has {', '.join(list(file)[:8]) or 'nothing'}); give the "
            "file of a whole run, not that of one grid point"
        )
    temperatures = np.atleast_1d(_dataset(file, "temperature")).astype(float)
    tensors = _over_temperature(file, names[0], len(temperatures), path)
    frequencies = _dataset(file, "frequency") if "frequency" in file else np.empty(0)
    version = file["version"][()] if "version" in file else b"unknown"
    numbers = _numbers(file, path.name)
    terms, strangers = _terms(list(file), numbers)
    return Kappa(
        name=path.name,
        sha256=file_sha256(path),
        written_at=datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds"),
        temperatures=temperatures,
        tensors=tensors,
        terms=terms,
        mesh=tuple(int(n) for n in np.ravel(_dataset(file, "mesh"))) if "mesh" in file else (),
        version=version.decode(errors="replace") if isinstance(version, bytes) else str(version),
        frequencies=(float(frequencies.min()), float(frequencies.max())) if frequencies.size else None,
        bands=frequencies.shape[1] if frequencies.ndim == 2 else None,
        q_points=len(frequencies) if frequencies.ndim == 2 else 0,
        parts={n: _over_temperature(file, n, len(temperatures), path) for n in _PARTS if n in file and n != names[0]},
        numbers=numbers,
        accumulated=_accumulated(file, temperatures, wanted),
        strangers=strangers,
    )


def _over_temperature(file: h5py.File, name: str, count: int, path: Path) -> NDArray[np.float64]:
    tensors = np.atleast_2d(_dataset(file, name)).astype(float)
    if tensors.shape != (count, 6):
        raise ResultFileError(
            f"{path.name}: {name} has the shape {tensors.shape} for {count} temperatures; expected ({count}, 6)"
        )
    return tensors


def _dataset(file: h5py.File, name: str, row: int | None = None) -> NDArray[Any]:
    """Values stored in the file itself, of one row or all; HDF5 can link to other files."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ResultFileError(f"{name} is a link to another place; give the file that holds the values")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise ResultFileError(f"{name} is not kept in the file itself; give the file that holds the values")
    values: NDArray[Any] = dataset[() if row is None else row]
    return values


# -- its method -------------------------------------------------------------------------------------------------------


def _numbers(file: h5py.File, name: str) -> dict[str, float]:
    """Numbers that identify a method; the file's name has the smearing too."""
    found = {}
    said = re.match(r"kappa-m\d+(?:-g\d+)?(?:-b[b\d]+)?-s(\d+(?:\.\d+)?)(?:-sd(\d+(?:\.\d+)?))?", name)
    if said:
        found = {k: float(v) for k, v in zip(("sigma", "sigma_cutoff_width"), said.groups(), strict=True) if v}
    for key in ("sigma", "sigma_cutoff_width", "boundary_mfp"):
        if key in file:
            found[key] = float(np.ravel(_dataset(file, key))[0])
    if found.get("boundary_mfp", 0.0) >= NO_BOUNDARY:
        del found["boundary_mfp"]
    return found


def _terms(names: Sequence[str], numbers: Mapping[str, float]) -> tuple[dict[str, str], tuple[str, ...]]:
    """What the datasets say of the method, and the names of unknown ones."""
    units = {"boundary_mfp": " micrometre", "sigma": " THz", "sigma_cutoff_width": " sigma"}
    terms: dict[str, str] = {}
    for term, said_by in _SAID_BY.items():
        of_numbers = [f"{name} {numbers[name]:g}{units[name]}" for name in said_by if name in numbers]
        told = of_numbers or [name for name in said_by if name in names and name not in units]
        if told:
            terms[term] = ", ".join(told)
    known = _NEUTRAL.union(*_SAID_BY.values())
    unknown = [name for name in names if name not in known]
    terms |= {name: "unknown dataset" for name in unknown if _CONTRIBUTION.match(name)}
    return terms, tuple(name for name in unknown if name not in terms)


# -- its modes --------------------------------------------------------------------------------------------------------


def _accumulated(
    file: h5py.File, temperatures: NDArray[np.float64], wanted: Sequence[float]
) -> dict[float, dict[str, list[float]]]:
    """Accumulated conductivity over mean free paths, as of ``phono3py-kaccum --mfp``, where the modes are stored."""
    if any(name not in file for name in ("mode_kappa", "group_velocity", "gamma")):
        return {}
    with np.errstate(over="ignore"):  # damaged numbers: values that are not finite give no table
        velocity = np.linalg.norm(_dataset(file, "group_velocity"), axis=-1)
    tables = {}
    for temperature in wanted:
        for row in np.flatnonzero(np.abs(temperatures - temperature) <= SAME_TEMPERATURE)[:1].tolist():
            table = _table(_dataset(file, "mode_kappa", row), _dataset(file, "gamma", row), velocity)
            if table:
                tables[float(temperature)] = table
    return tables


def _table(
    modes: NDArray[np.float64], gamma: NDArray[np.float64], velocity: NDArray[np.float64]
) -> dict[str, list[float]] | None:
    """Share of the isotropic mean by mean free path; ``gamma`` is half a linewidth in THz, ``velocity`` in THz A."""
    if gamma.shape != velocity.shape or modes.shape != (*gamma.shape, 6):
        return None
    scatters = gamma > 0
    lengths = velocity[scatters] / (4 * np.pi * gamma[scatters]) / 10
    values = modes[..., :3].sum(axis=-1)[scatters]
    order = np.argsort(lengths)
    lengths, sums = lengths[order], np.cumsum(values[order])
    if not sums.size or not np.isfinite(lengths).all() or not np.isfinite(sums).all() or sums[-1] <= 0:
        return None
    shares = sums / sums[-1]
    # optical modes at the zone centre have almost no group velocity and carry almost no heat
    first, last = (lengths[np.argmax(shares >= limit)] for limit in _RANGE)
    if first <= 0:
        return None
    points = np.geomspace(first, last, _POINTS)
    points[-1] = last  # against a rounding error
    below = np.searchsorted(lengths, points * (1 + 1e-12), side="right")
    shares = np.concatenate([[0.0], shares])[below]
    return {"mean_free_path_nm": [float(f"{p:.4g}") for p in points], "share": [round(float(s), 4) for s in shares]}
