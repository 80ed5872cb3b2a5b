"""Checks whether the conductivity in a file can belong to its crystal: values, symmetry, bands, frequencies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from campaigns.exchange.kappa_files import Kappa
from db.records import KAPPA_UNIT
from db.states import FailureReason
from engine.materials.identity import standardise
from engine.materials.symmetry import point_group, symmetrised

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.materials.crystal import Crystal

USUAL = (0.01, 5_000.0)
"""W/(m K); usual range: a mean outside is accepted with a note."""
LARGEST = 1e5
"""W/(m K); a larger mean is refused."""
SYMMETRY_TOLERANCE = 0.05
"""Largest deviation of a tensor from its crystal's symmetry, as a share of the largest component."""
_PAIRS = ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1))


@dataclass(frozen=True)
class Problem:
    """Reason to refuse a conductivity."""

    message: str
    reason: FailureReason | None = None
    """Reason of the calculation's failure; without one the file does not belong to the crystal, and is refused."""
    is_final: bool = False
    """Whether it cannot be overridden, since there is no valid value."""


@dataclass(frozen=True)
class Subject:
    """The crystal that a conductivity is compared with."""

    crystal: Crystal
    is_oriented: bool
    """Whether it has the orientation of the calculation; otherwise only rotational invariants are compared."""
    imaginary_tolerance: float
    """Tolerance of imaginary modes, THz."""


def judge(kappa: Kappa, temperatures: Sequence[float], subject: Subject) -> list[Problem]:
    """Why the values at these temperatures (Kelvin) cannot be this crystal's, the most serious reason first."""
    tensors = [(t, tensor) for t in temperatures if (tensor := kappa.at(t)) is not None]
    found = [problem for t, tensor in tensors for problem in _of_value(kappa.name, tensor, t)]
    # an invalid value has no symmetry either
    if not found:
        found = [problem for t, tensor in tensors for problem in _of_symmetry(kappa.name, tensor, t, subject)]
    return [*found, *_of_modes(kappa, subject)]


def remarks(kappa: Kappa, temperatures: Sequence[float]) -> list[str]:
    """What is unusual about values that are accepted."""
    said = []
    for temperature in temperatures:
        tensor = kappa.at(temperature)
        mean = float(np.mean(tensor[:3])) if tensor is not None else USUAL[0]
        if not USUAL[0] <= mean <= USUAL[1]:
            said.append(
                f"kappa is {mean:.3g} {KAPPA_UNIT} at {temperature:g} K, outside {USUAL[0]:g} to {USUAL[1]:g}; check it"
            )
    if kappa.is_suspect:
        said.append(f"phono3py {kappa.version} had an error in third order; compute kappa anew")
    if kappa.strangers:
        said.append(f"{kappa.name} holds unknown datasets: {', '.join(kappa.strangers)}")
    return said


def matrix(tensor: NDArray[np.float64]) -> NDArray[np.float64]:
    """Six components as a symmetric ``3 x 3`` tensor."""
    full = np.empty((3, 3))
    for value, (i, j) in zip(tensor, _PAIRS, strict=True):
        full[i, j] = full[j, i] = value
    return full


def _of_value(name: str, tensor: NDArray[np.float64], temperature: float) -> Iterator[Problem]:
    mean = float(np.mean(tensor[:3]))
    where = f"{name}: kappa is {mean} at {temperature:g} K"
    if not np.isfinite(tensor).all():
        what = where if not np.isfinite(mean) else f"{name}: a component of kappa is not a number at {temperature:g} K"
        yield Problem(what, FailureReason.BAD_OUTPUT, is_final=True)
    elif mean <= 0:
        yield Problem(where, FailureReason.BELOW_FLOOR, is_final=True)
    elif mean > LARGEST:
        yield Problem(f"{where}, above {LARGEST:g} {KAPPA_UNIT}, more than any crystal has")
    elif (lowest := float(np.linalg.eigvalsh(matrix(tensor))[0])) <= 0:
        words = "/".join(f"{v:g}" for v in tensor[:3])
        yield Problem(
            f"{name}: kappa {words} at {temperature:g} K has the principal value {lowest:.4g}; all must be above zero"
        )


def _of_symmetry(name: str, tensor: NDArray[np.float64], temperature: float, subject: Subject) -> Iterator[Problem]:
    rotations = point_group(subject.crystal)
    full = matrix(tensor)
    allowed = SYMMETRY_TOLERANCE * np.abs(full).max()
    if subject.is_oriented:
        off = float(np.abs(full - symmetrised(full, rotations)).max())
        words = "components that symmetry forbids, or makes equal,"
    else:
        # a general tensor symmetrised by the crystal has just the crystal's symmetry
        generic = symmetrised(matrix(np.array([1.0, 2.0, 4.0, 0.3, 0.5, 0.7])), rotations)
        equal = int((np.diff(np.linalg.eigvalsh(generic)) < 1e-6).sum())
        gaps = np.sort(np.diff(np.linalg.eigvalsh(full)))
        off = float(gaps[:equal].sum())
        words = f"{equal + 1} principal values that symmetry makes equal" if equal else ""
    if off > allowed:
        listed = " ".join(f"{v:.4g}" for v in tensor)
        yield Problem(
            f"{name}: kappa (xx yy zz yz xz xy) {listed} at {temperature:g} K does not have the symmetry of the "
            f"crystal: {words} are off by {off:.3g}, tolerance {SYMMETRY_TOLERANCE:.0%} of the largest"
        )


def _of_modes(kappa: Kappa, subject: Subject) -> Iterator[Problem]:
    # a relaxed cell that gained symmetry may hold several primitive ones, which phono3py computes then
    expected, primitive = 3 * len(subject.crystal), 3 * len(standardise(subject.crystal)[0])
    # a file of a single q-point is reduced, and perhaps in its bands too
    is_part = kappa.q_points == 1 and int(np.prod(kappa.mesh[:3])) != 1
    is_whole = kappa.bands in (None, expected, primitive)
    if kappa.bands is not None and (kappa.bands > expected or not (is_whole or is_part)):
        yield Problem(
            f"{kappa.name} has {kappa.bands} bands, but a cell of {len(subject.crystal)} atoms has {expected}; it is "
            "of another crystal, or of another cell"
        )
    if kappa.frequencies is None:
        return
    if not np.isfinite(kappa.frequencies).all():
        yield Problem(f"{kappa.name}: some frequencies are not numbers", FailureReason.BAD_OUTPUT)
    elif kappa.frequencies[0] < -subject.imaginary_tolerance:
        message = f"a mode at {kappa.frequencies[0]:.2f} THz, tolerance {subject.imaginary_tolerance:g} THz"
        yield Problem(message, FailureReason.IMAGINARY_MODES)
