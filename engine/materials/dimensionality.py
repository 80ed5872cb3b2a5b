"""Dimensionality of the bonds of a crystal (0 molecules, 1 chains, 2 layers, 3), and empty space in a cell.

Ranking by intervals: Larsen, Pandey, Strange, Jacobsen, Phys. Rev. Materials 3, 034003 (2019). Two sites are bonded
when they are closer than k times the sum of their covalent radii. The dimensionality grows with k; the one with the
longest interval of k counts, with the largest weight near k = 1. Half of the weight lies below k = 1.25 here
instead of 1.15, so that antimony (1.20) has three dimensions and tellurium (1.26) one. Ions are larger than
atoms with covalent bonds: a site without any gets those to its nearest neighbours (TlCl, 1.3; NH4Cl), unless it is a
noble gas.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from engine.materials.checks import neighbours
from engine.materials.elements import COVALENT_RADIUS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from engine.materials.crystal import Crystal

MIN_VACUUM = 6.0
"""Angstrom between two planes of nuclei; layers of van der Waals crystals are some 3.5 apart, planes of caesium 4.3."""
_WIDTH = 0.25
_SURE = 1 + _WIDTH
"""Ratio below which half of the weight lies: bonds in three dimensions below it have the longest interval."""
_LONGEST = 1.8
_KINDS = {1: "layers", 2: "chains", 3: "isolated atoms or molecules"}


def dimensionality(crystal: Crystal) -> int:
    """Number of dimensions that bonds extend in, that of the largest component where there are several."""
    bonds = _Bonds(crystal, _SURE)
    if bonds.reach(_SURE) == 3:
        return 3
    bonds = _Bonds(crystal, _LONGEST)
    starts = np.array([0.0, *(bonds.start(reach) for reach in (1, 2, 3)), np.inf])
    beyond = np.square(np.maximum(starts - 1, 0) / _WIDTH)
    weight = np.where(np.isinf(beyond), 1.0, 1 - 1 / (1 + beyond))
    return int(np.argmax(np.diff(weight)))


def vacuum_note(crystal: Crystal) -> str:
    """Note that a primitive cell has empty space, and between which parts; empty for a bulk crystal."""
    found = _gaps(crystal)
    if not found:
        return ""
    kind = _KINDS[int(np.linalg.matrix_rank([plane for plane, _ in found]))]
    widest = max(gap for _, gap in found)
    return f"vacuum of {widest:.3g} A between {kind}: not a bulk crystal"


class _Bonds:
    """Pairs of sites by the ratio of their distance to the sum of their covalent radii."""

    def __init__(self, crystal: Crystal, longest: float):
        radii = COVALENT_RADIUS[crystal.numbers]
        first, second, images, distances = neighbours(crystal, 2 * longest * float(radii.max()))
        ratio = distances / (radii[first] + radii[second])
        ratio = ratio / _looseness(crystal.numbers, first, second, ratio)
        near = np.flatnonzero(ratio <= longest)
        order = near[np.argsort(ratio[near], kind="stable")]
        self.ratio = ratio[order]
        self._n = len(crystal)
        self._pairs = list(zip(first[order].tolist(), second[order].tolist(), images[order].tolist(), strict=True))

    def start(self, reach: int) -> float:
        """Smallest ratio at which bonds extend in this many dimensions; infinite where there is none."""
        low, high = 0, len(self.ratio)
        while low < high:
            middle = (low + high) // 2
            if self.reach(self.ratio[middle]) >= reach:
                high = middle
            else:
                low = middle + 1
        return float(self.ratio[low]) if low < len(self.ratio) else np.inf

    def reach(self, ratio: float) -> int:
        """Count the dimensions of bonds up to this ratio."""
        bonds: list[list[tuple[int, Sequence[float]]]] = [[] for _ in range(self._n)]
        for first, second, image in self._pairs[: np.searchsorted(self.ratio, ratio * (1 + 1e-9), side="right")]:
            bonds[first].append((second, image))
        place: dict[int, tuple[float, float, float]] = {}
        return max(_periods(site, bonds, place) for site in range(self._n))


def _looseness(
    numbers: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64], ratio: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Divisor of each pair's ratio: that of the nearest neighbours for a site without a bond."""
    nearest = np.full(len(numbers), np.inf)
    np.minimum.at(nearest, first, ratio)
    loose = np.where((nearest > 1) & (nearest <= _LONGEST) & ~np.isin(numbers, _NOBLE), nearest, 1.0)
    return np.where(numbers[first] == numbers[second], 1.0, np.maximum(loose[first], loose[second]))


_NOBLE = [2, 10, 18, 36, 54, 86]


def _periods(
    start: int, bonds: list[list[tuple[int, Sequence[float]]]], place: dict[int, tuple[float, float, float]]
) -> int:
    """Count the independent translations that lead from a site, along bonds, to its own images."""
    if start in place:
        return 0
    place[start] = (0.0, 0.0, 0.0)
    waiting, periods = [start], set()
    while waiting:
        site = waiting.pop()
        x, y, z = place[site]
        for other, (i, j, k) in bonds[site]:
            there = (x + i, y + j, z + k)
            if other not in place:
                place[other] = there
                waiting.append(other)
            elif there != (known := place[other]):
                periods.add((there[0] - known[0], there[1] - known[1], there[2] - known[2]))
    return int(np.linalg.matrix_rank(np.array(list(periods)))) if periods else 0


def _gaps(crystal: Crystal) -> list[tuple[NDArray[np.int64], float]]:
    """Lattice planes with much empty space between two of them, and how much (Angstrom)."""
    lengths = np.linalg.norm(_PLANES @ np.linalg.inv(crystal.lattice).T, axis=1)
    wide = np.flatnonzero(lengths * MIN_VACUUM < 1)  # others repeat sooner
    if not len(wide):
        return []
    heights = np.sort((crystal.frac_coords @ _PLANES[wide].T) % 1.0, axis=0)
    between = np.concatenate([heights[1:], heights[:1] + 1]) - heights
    widest = between.max(axis=0) / lengths[wide]
    return [(_PLANES[wide[n]], float(widest[n])) for n in np.flatnonzero(widest > MIN_VACUUM)]


# each plane once, as (h, k, l) and (-h, -k, -l) are one
_PLANES = np.array([hkl for hkl in product((-1, 0, 1), repeat=3) if hkl > (0, 0, 0)])
