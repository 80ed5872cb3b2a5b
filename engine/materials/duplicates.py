"""The same crystal under two ids: equal by content hash, or nearly equal, relaxed by two databases' functionals.

Measured on 450 pairs of one bucket from five databases: copies differ by at most 0.044 in root-mean-square site
distance (in units of the cube root of the volume per atom) and 4 % in strain, other structures by at least 0.08.

Two functionals may give one compound a volume that differs by much more (halides, layers bound by dispersion). Such
crystals conduct differently and stay two materials, but are reported as one compound. Of 38 pairs of one Materials
Project id and more than 10 % between their volumes 36 are, at most 26 % apart; of 17 pairs of two ids InCl and InS are,
whose sites differ by 0.02 and 0.04. No matching pair lies between 26 and 50 %.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from engine.materials.checks import surroundings
from engine.materials.identity import isometry_invariants

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.analysis.structure_matcher import StructureMatcher
    from pymatgen.core import Structure

    from engine.materials.crystal import Crystal, Material

MAX_VOLUME_RATIO = 1.10
"""Largest relative difference in volume; functionals differ by a few percent, and more acts like a pressure."""
MAX_SITE_DISTANCE = 0.06
"""Root mean square site distance, in units of the cube root of the volume per atom."""
MAX_LENGTH_STRAIN = 0.05
MAX_ANGLE = 3.0
"""Degrees."""
MAX_INVARIANTS = np.array([np.log(MAX_VOLUME_RATIO), 1.0, 2.5])
"""Limits of isometry invariants of copies; 560 crystals moved to the limits above differ by 0.65 and 1.7 at most."""
RELAXATION_VOLUME_RATIO = 1.35
"""Largest relative difference in volume of one compound in two relaxations."""
RELAXATION_LENGTH_STRAIN = 0.10
"""Largest strain after scaling to one volume; the distance of layers changes."""
RELAXATION_ANGLE = 5.0
"""Degrees."""
RELAXATION_INVARIANTS = np.array([np.log(RELAXATION_VOLUME_RATIO), 3.0, 8.0])
"""As :data:`MAX_INVARIANTS`; 150 matching pairs of our data sets differ by 2.0 and 5.5 at most."""


class Placed(NamedTuple):
    """A new material, and its relation to the known ones."""

    material: Material
    copy_of: Material | None
    """The material with the same crystal, if any."""
    relaxation_of: Material | None
    """If it is not a copy: a material of the same compound in another relaxation."""


def same_crystal(a: Material, b: Material) -> bool:
    """Whether two materials are one crystal; polymorphs, and other orderings of one lattice, are not."""
    if a.bucket != b.bucket:
        return False
    if a.content_hash == b.content_hash:
        return True
    return _volume_ratio(a, b) <= MAX_VOLUME_RATIO and _fit(a, b, MAX_LENGTH_STRAIN, MAX_ANGLE)


def told_apart(materials: Sequence[Material], known: Mapping[str, Material]) -> list[Material]:
    """Assign new hashes to different crystals that share one.

    The hash is made of two numbers that both vanish for some crystals (sums over neighbours that cancel); where it
    occurs again under another id, the surroundings of the sites decide.

    Parameters
    ----------
    materials
        In order of arrival.
    known
        Earlier materials, by content hash.
    """
    first = dict(known)
    found = []
    for material in materials:
        other = first.setdefault(material.content_hash, material)
        if other is not material and other.id != material.id and _are_apart(material.crystal, other.crystal):
            steps = np.floor(fingerprint(material.crystal) / _STEP).astype(int)
            words = "|".join([material.content_hash, material.bucket, *map(str, steps.tolist())])
            material = replace(material, content_hash=hashlib.sha256(words.encode()).hexdigest()[:32])  # noqa: PLW2901
            first.setdefault(material.content_hash, material)
        found.append(material)
    return found


def fingerprint(crystal: Crystal) -> NDArray[np.float64]:
    """Radial distribution of neighbours in shells of 0.1 spacings, pairs weighted by their elements."""
    first, second, distances = surroundings(crystal)
    weight = 1 + 0.5 * np.cos(1.7 * crystal.numbers + 0.3)
    shells = np.exp(-((((distances / crystal.spacing)[:, None] - _SHELLS) / _WIDTH) ** 2))
    return np.asarray((weight[first] * weight[second]) @ shells / len(crystal), dtype=np.float64)


def _are_apart(a: Crystal, b: Crystal) -> bool:
    one, other = fingerprint(a), fingerprint(b)
    return bool((np.abs(one - other) > _APART * (1 + np.abs(one))).any())


_SHELLS = np.arange(0.6, 2.0, 0.1)
_WIDTH = 0.08
_APART = 0.1
"""Relative tolerance; displacements of 0.003 Angstrom change a shell by a hundredth at most."""
_STEP = 0.5


def same_compound(a: Material, b: Material) -> bool:
    """Whether two materials are one compound in one structure, perhaps relaxed to other volumes."""
    if a.bucket != b.bucket:
        return False
    if a.content_hash == b.content_hash:
        return True
    if _volume_ratio(a, b) > RELAXATION_VOLUME_RATIO:
        return False
    apart = np.abs(isometry_invariants(a.crystal) - isometry_invariants(b.crystal))
    return bool((apart <= RELAXATION_INVARIANTS).all()) and _is_relaxation(a, b)


def link_duplicates(new: Iterable[Material], known: Mapping[str, Sequence[Material]]) -> list[Placed]:
    """For every new material, which one it is a copy of, or else a relaxation of.

    Parameters
    ----------
    new
        Materials in order of arrival; a later one may be a copy of an earlier one.
    known
        Known materials, by :attr:`Material.bucket`; only those of the new materials' buckets are needed.
    """
    buckets = {bucket: _Bucket(materials) for bucket, materials in known.items()}
    return [buckets.setdefault(material.bucket, _Bucket([])).place(material) for material in new]


class _Bucket:
    """Different crystals of one formula, space group and number of sites."""

    def __init__(self, materials: Sequence[Material]):
        self._materials = list(materials)
        self._by_hash = {m.content_hash: m for m in reversed(self._materials)}
        self._invariants: list[NDArray[np.float64]] = []

    def place(self, material: Material) -> Placed:
        """How this material relates to the known ones; it is added where it is no copy.

        Equal hashes are checked first.
        """
        if (same := self._by_hash.get(material.content_hash)) is not None:
            return Placed(material, same, None)
        placed = self._near(material) if self._materials else Placed(material, None, None)
        if placed.copy_of is None:
            self._materials.append(material)
            self._by_hash[material.content_hash] = material
        return placed

    def _near(self, material: Material) -> Placed:
        """Match only crystals with similar invariants, which saves nine in ten of the matches in large buckets.

        Of several that match, the one under the same id.
        """
        self._invariants += [isometry_invariants(m.crystal) for m in self._materials[len(self._invariants) :]]
        apart = np.abs(np.array(self._invariants) - isometry_invariants(material.crystal))
        close, alike = (
            sorted((self._materials[i] for i in np.flatnonzero(mask)), key=lambda m: m.id != material.id)
            for mask in ((apart <= limits).all(axis=1) for limits in (MAX_INVARIANTS, RELAXATION_INVARIANTS))
        )
        if (same := next((m for m in close if same_crystal(material, m)), None)) is not None:
            return Placed(material, same, None)
        relaxed = (m for m in alike if _is_relaxation(material, m))
        return Placed(material, None, next(relaxed, None))


def _volume_ratio(a: Material, b: Material) -> float:
    """Volume ratio of two crystals with as many sites, at least 1."""
    small, large = sorted((a.crystal.volume, b.crystal.volume))
    return large / small


def _fit(a: Material, b: Material, length_strain: float, angle: float) -> bool:
    matcher = _matcher(length_strain, angle)
    return bool(matcher.fit(_reduced(a), _reduced(b), skip_structure_reduction=True))


def _is_relaxation(a: Material, b: Material) -> bool:
    """Match in a fixed order, so that the result is symmetric."""
    small, large = sorted((a, b), key=lambda m: m.crystal.volume)
    # the best of all mappings: `fit` stops at the first one, which may not match strained cells
    best = _matcher(RELAXATION_LENGTH_STRAIN, RELAXATION_ANGLE).get_rms_dist(_reduced(small), _reduced(large))
    return best is not None and bool(best[0] <= MAX_SITE_DISTANCE)


@lru_cache(maxsize=1024)
def _reduced(material: Material) -> Structure:
    """Reduced structure, cached: the matcher's own cache compares structures site by site, slower than matching."""
    return material.crystal.to_structure().get_reduced_structure()


@cache
def _matcher(length_strain: float, angle: float) -> StructureMatcher:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(
        ltol=length_strain, stol=MAX_SITE_DISTANCE, angle_tol=angle, primitive_cell=False, scale=True
    )
