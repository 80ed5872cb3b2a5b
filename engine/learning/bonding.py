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

    from engine.materials.crystal import Crystal

CUTOFF = 6.0
"""Angstrom; longer than the nearest-neighbour distance of almost every crystal."""
_BOND = 1.25
_SOFTNESS = 0.37  # Angstrom
_TINY = 1e-6
_CHUNK = 256
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


def bonding_statistics(crystals: Iterable[Crystal]) -> NDArray[np.float32]:
    """N x 60 statistics, columns as in :data:`BONDING_STATISTICS`."""
    crystals = iter(crystals)
    parts = []
    while chunk := list(islice(crystals, _CHUNK)):
        parts.append(_chunk_statistics(chunk))
    return np.concatenate(parts) if parts else np.empty((0, len(BONDING_STATISTICS)), dtype=np.float32)


def _chunk_statistics(crystals: Sequence[Crystal]) -> NDArray[np.float32]:
    graphs = [build_graph(c, CUTOFF) for c in crystals]
    sizes = np.array([len(c) for c in crystals])
    first = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    numbers = np.concatenate([c.numbers for c in crystals])
    owner = np.repeat(np.arange(len(crystals)), sizes)
    a, b = np.concatenate([g.edges + start for g, start in zip(graphs, first, strict=True)], axis=1)
    positions = np.concatenate([g.positions for g in graphs]).astype(np.float64)
    vector = positions[b] + np.concatenate([g.shifts for g in graphs]) - positions[a]
    distance = np.linalg.norm(vector, axis=1)
    direction = vector / distance[:, None]

    n = len(numbers)
    nearest = np.full(n, CUTOFF)
    np.minimum.at(nearest, a, distance)
    strength = np.exp((COVALENT_RADIUS[numbers[a]] + COVALENT_RADIUS[numbers[b]] - distance) / _SOFTNESS)
    bond = distance <= _BOND * nearest[a]
    volume = np.array([c.volume for c in crystals])
    atoms = _of_atoms(n, a, bond, direction, strength, nearest, numbers)
    bonds = _of_bonds(numbers, a[bond], b[bond], distance[bond])
    like = _mean(numbers[a[bond]] == numbers[b[bond]], owner[a[bond]], len(crystals))
    cells = [
        np.log(_mean(ATOMIC_MASS[numbers], owner, len(crystals))),
        np.log(volume / sizes),
        np.log(sizes),
        _mean(nearest, owner, len(crystals)) ** 3 * sizes / volume,
        np.bincount(owner, nearest**3, len(crystals)) * np.pi / 6 / volume,
        like,
        *_spring_elasticity(owner[a], vector, direction, strength, volume).T,
    ]
    columns = [
        *(m for value in atoms for m in _moments(value, owner, len(crystals))),
        *(m for value in bonds for m in _moments(value, owner[a[bond]], len(crystals))),
        *cells,
    ]
    return np.stack(columns, axis=1).astype(np.float32)


def _of_atoms(
    n: int, a: np.ndarray, bond: np.ndarray, direction: np.ndarray, strength: np.ndarray, nearest: np.ndarray,
    numbers: np.ndarray,
) -> list[np.ndarray]:  # fmt: skip
    """One array (n) for each name in ``_OF_ATOMS``."""
    at, u = a[bond], direction[bond]
    count = np.bincount(at, minlength=n).astype(np.float64)
    many = np.maximum(count, 1.0)
    total = _sums(u, at, n)
    second = _sums(u[:, :, None] * u[:, None, :], at, n)
    pairs = np.maximum(count * (count - 1) / 2, 1.0)
    cosine = (np.square(total).sum(1) - count) / 2 / pairs
    squared = (np.square(second).sum((1, 2)) - count) / 2 / pairs
    springs = _sums(strength[:, None, None] * direction[:, :, None] * direction[:, None, :], a, n)
    return [
        count,
        np.log(nearest),
        np.linalg.norm(total, axis=1) / many,
        np.linalg.eigvalsh(second / many[:, None, None])[:, 0],
        cosine,
        np.sqrt(np.maximum(squared - cosine**2, 0.0)),
        np.log(np.bincount(a, strength, n) + _TINY),
        np.log(np.maximum(np.linalg.eigvalsh(springs)[:, 0], 0.0) / ATOMIC_MASS[numbers] + _TINY) / 2,
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


def _spring_elasticity(
    owner: np.ndarray, vector: np.ndarray, direction: np.ndarray, strength: np.ndarray, volume: np.ndarray
) -> np.ndarray:
    """Logarithms of the eigenvalues (N x 6, ascending) of the elastic tensor of springs along all pairs."""
    x, y, z = direction.T
    root2 = np.sqrt(2.0)
    strain = np.stack([x * x, y * y, z * z, root2 * y * z, root2 * x * z, root2 * x * y], axis=1)
    weight = strength * np.square(vector).sum(1)
    tensor = _sums(weight[:, None, None] * strain[:, :, None] * strain[:, None, :], owner, len(volume))
    return np.log(np.maximum(np.linalg.eigvalsh(tensor / volume[:, None, None]), 0.0) + 1e-3)


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
    """Sum of ``values`` (m x ...) by owner, n x ...."""
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    columns = [np.bincount(owner, column, n) for column in flat.T]
    return np.stack(columns, axis=1).reshape(n, *values.shape[1:])
