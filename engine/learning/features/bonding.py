"""What the bonds of a crystal tell of its stiffness: distances, coordination, angles and a spring model of elasticity.

A bond is a pair no further apart than 1.25 times the shortest distance of its first atom. The spring model puts a
central-force spring along every pair, of strength ``exp((R - r) / 0.37)`` with ``R`` the sum of covalent radii (as the
bond valence of Brown and Altermatt, Acta Cryst. B 41, 244, 1985); its elastic tensor (Born and Huang, Dynamical Theory
of Crystal Lattices, 1954) and each atom's stiffness over its mass show the scale and the anisotropy of the real ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from engine.graphs.crystal_graph import build_graph
from engine.materials.elements import ATOMIC_MASS, COVALENT_RADIUS, ELECTRONEGATIVITY

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.graphs.crystal_graph import CrystalGraph
    from engine.materials.crystal import Crystal

CUTOFF = 6.0
"""Angstrom; longer than the nearest-neighbour distance of almost every crystal."""
_BOND = 1.25
_SOFTNESS = 0.37  # Angstrom
_TINY = 1e-6
_ROOT2 = math.sqrt(2.0)
_MANDEL = np.array([1.0, 1.0, 1.0, *[1 / _ROOT2] * 3])
_MANDEL_PLACE = np.array([[0, 5, 4], [5, 1, 3], [4, 3, 2]])
_CHUNK = 64
"""Crystals whose pairs fit the processor's cache together."""
_MOMENTS = ("mean", "std", "min", "max")
_OF_ATOMS = (
    "coordination",
    "log_distance",
    "off_centre",
    "flatness",
    "mean_cosine",
    "std_cosine",
    "valence",
    "frequency",
)
_OF_BONDS = ("log_length", "relative_length", "electronegativity_difference", "log_reduced_mass")
_OF_CELLS = (
    "log_mean_mass",
    "log_volume_per_atom",
    "log_n_atoms",
    "distance_cubed_over_volume",
    "packing",
    "like_bonds",
    *(f"log_elastic_{i}" for i in range(1, 7)),
)
BONDING_STATISTICS: tuple[str, ...] = (
    *(f"{m}_{name}" for name in _OF_ATOMS for m in _MOMENTS),
    *(f"{m}_{name}" for name in _OF_BONDS for m in _MOMENTS),
    *_OF_CELLS,
)
"""Names of the columns: moments over atoms, moments over bonds, and one value a crystal. Lengths in Angstrom, masses in
u; ``off_centre`` is the length of the mean bond direction, ``flatness`` the smallest eigenvalue of its second moment,
``frequency`` the logarithm of an atom's softest spring frequency, ``log_elastic_1`` to ``6`` the eigenvalues of the
spring model's elastic tensor, the softest first."""

_Chunk = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def bonding_statistics(
    crystals: Iterable[Crystal], graphs: Iterable[CrystalGraph] | None = None
) -> NDArray[np.float32]:
    """N x 60 statistics, columns as in :data:`BONDING_STATISTICS`.

    ``graphs`` are those of the crystals within :data:`CUTOFF`, where they are there already.
    """
    crystals, given = iter(crystals), None if graphs is None else iter(graphs)
    parts = []
    while chunk := list(islice(crystals, _CHUNK)):
        known = [build_graph(c, CUTOFF) for c in chunk] if given is None else list(islice(given, len(chunk)))
        parts.append(_chunk_statistics(chunk, known))
    return np.concatenate(parts) if parts else np.empty((0, len(BONDING_STATISTICS)), dtype=np.float32)


def _chunk_statistics(crystals: Sequence[Crystal], graphs: Sequence[CrystalGraph]) -> NDArray[np.float32]:
    sizes = np.array([len(c) for c in crystals])
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    numbers = np.concatenate([c.numbers for c in crystals])
    owner = np.repeat(np.arange(len(crystals)), sizes)
    a, b = np.concatenate([g.edges + start for g, start in zip(graphs, first, strict=True)], axis=1)
    positions = np.concatenate([g.positions for g in graphs], dtype=np.float64)
    shifts = np.concatenate([g.shifts for g in graphs])
    vector = np.ascontiguousarray((positions[b] + shifts - positions[a]).T)  # 3 x m: whole columns are summed below
    squared = np.einsum("im,im->m", vector, vector)
    distance = np.sqrt(squared)
    direction = vector / distance
    dyads = _dyads(direction)

    n = len(numbers)
    nearest = np.full(n, CUTOFF)
    np.minimum.at(nearest, a, distance)
    strength = np.exp((COVALENT_RADIUS[numbers[a]] + COVALENT_RADIUS[numbers[b]] - distance) / _SOFTNESS)
    bond = np.flatnonzero(distance <= _BOND * nearest[a])
    volume = np.array([c.volume for c in crystals])
    atoms = _of_atoms(n, a, bond, direction, dyads, strength, nearest, numbers)
    bonds = _of_bonds(numbers, a[bond], b[bond], distance[bond])
    like = _mean(numbers[a[bond]] == numbers[b[bond]], owner[a[bond]], len(crystals))
    ends = np.cumsum([g.n_edges for g in graphs])
    cells = [
        np.log(_mean(ATOMIC_MASS[numbers], owner, len(crystals))),
        np.log(volume / sizes),
        np.log(sizes),
        _mean(nearest, owner, len(crystals)) ** 3 * sizes / volume,
        np.bincount(owner, nearest**3, len(crystals)) * np.pi / 6 / volume,
        like,
        *_spring_elasticity(ends, dyads, strength * squared, volume).T,
    ]
    columns = [
        *(m for value in atoms for m in _moments(value, owner, len(crystals))),
        *(m for value in bonds for m in _moments(value, owner[a[bond]], len(crystals))),
        *cells,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _of_atoms(
    n: int, a: np.ndarray, bond: np.ndarray, direction: np.ndarray, dyads: np.ndarray, strength: np.ndarray,
    nearest: np.ndarray, numbers: np.ndarray,
) -> list[np.ndarray]:  # fmt: skip
    """One array (n) for each name in ``_OF_ATOMS``."""
    at = a[bond]
    count = np.bincount(at, minlength=n).astype(np.float64)
    many = np.maximum(count, 1.0)
    total = _sums(direction[:, bond], at, n)
    second = _sums(dyads[:, bond], at, n)
    pairs = np.maximum(count * (count - 1) / 2, 1.0)
    cosine = (np.square(total).sum(1) - count) / 2 / pairs
    squared = (np.square(second).sum(1) - count) / 2 / pairs
    springs = _sums(strength * dyads, a, n)
    return [
        count,
        np.log(nearest),
        np.linalg.norm(total, axis=1) / many,
        np.linalg.eigvalsh(_matrices(second / many[:, None]))[:, 0],
        cosine,
        np.sqrt(np.maximum(squared - cosine**2, 0.0)),
        np.log(np.bincount(a, strength, n) + _TINY),
        np.log(np.maximum(np.linalg.eigvalsh(_matrices(springs))[:, 0], 0.0) / ATOMIC_MASS[numbers] + _TINY) / 2,
    ]


def _of_bonds(numbers: np.ndarray, a: np.ndarray, b: np.ndarray, distance: np.ndarray) -> list[np.ndarray]:
    """One array (bonds) for each name in ``_OF_BONDS``."""
    za, zb = numbers[a], numbers[b]
    return [
        np.log(distance),
        distance / (COVALENT_RADIUS[za] + COVALENT_RADIUS[zb]),
        np.abs(ELECTRONEGATIVITY[za] - ELECTRONEGATIVITY[zb]),
        np.log(ATOMIC_MASS[za] * ATOMIC_MASS[zb] / (ATOMIC_MASS[za] + ATOMIC_MASS[zb])),
    ]


def _spring_elasticity(ends: np.ndarray, dyads: np.ndarray, weight: np.ndarray, volume: np.ndarray) -> np.ndarray:
    """Logarithms of the eigenvalues (N x 6, ascending) of the elastic tensor of springs along all pairs.

    The pairs of crystal k, of which ``dyads`` (6 x m) and ``weight`` (m) are given, stop before ``ends[k]``.
    """
    starts = np.concatenate([[0], ends[:-1]])
    weighted = weight * dyads
    tensor = np.stack([weighted[:, i:j] @ dyads[:, i:j].T for i, j in zip(starts, ends, strict=True)])
    return np.log(np.maximum(np.linalg.eigvalsh(tensor / volume[:, None, None]), 0.0) + 1e-3)


def _dyads(direction: np.ndarray) -> np.ndarray:
    """Product of each unit vector (3 x m) with itself, 6 x m in Mandel's notation, which keeps scalar products."""
    x, y, z = direction
    return np.stack([x * x, y * y, z * z, _ROOT2 * y * z, _ROOT2 * x * z, _ROOT2 * x * y])


def _matrices(mandel: np.ndarray) -> np.ndarray:
    """Write symmetric matrices (n x 6 in Mandel's notation) as n x 3 x 3."""
    return (mandel * _MANDEL)[:, _MANDEL_PLACE]


def _moments(values: np.ndarray, owner: np.ndarray, n: int) -> list[np.ndarray]:
    """Mean, standard deviation, minimum and maximum (n each) of ``values`` by owner; zero where it owns none."""
    mean = _mean(values, owner, n)
    spread = np.sqrt(np.maximum(_mean(np.square(values - mean[owner]), owner, n), 0.0))
    low, high = np.full(n, np.inf), np.full(n, -np.inf)
    np.minimum.at(low, owner, values)
    np.maximum.at(high, owner, values)
    some = np.isfinite(low)
    return [mean, spread, np.where(some, low, 0.0), np.where(some, high, 0.0)]


def _mean(values: np.ndarray, owner: np.ndarray, n: int) -> np.ndarray:
    count = np.maximum(np.bincount(owner, minlength=n), 1)
    return np.bincount(owner, values, n) / count


def _sums(values: np.ndarray, owner: np.ndarray, n: int) -> np.ndarray:
    """Sum of each row of ``values`` (c x m) by owner, n x c."""
    return np.stack([np.bincount(owner, row, n) for row in values], axis=1)
