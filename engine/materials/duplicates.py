"""The same crystal under two ids: equal by content hash, or nearly equal, relaxed by two databases' functionals.

Measured on 450 pairs of one bucket from five databases: copies differ by at most 0.044 in root-mean-square site
distance (in units of the cube root of the volume per atom) and 4 % in strain, other structures by at least 0.08.

Two functionals may give one compound a volume that differs by much more (halides, layers bound by dispersion). Such
crystals conduct differently and stay two materials, but are told as one compound. Of 38 pairs of one Materials Project
id and more than 10 % between their volumes 36 are, the most 26 % apart; of 17 pairs of two ids two are, InCl and InS,
whose sites differ by .02 and .04. Nothing that matches lies between 26 and 50 %.
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
"""Functionals differ by a few percent in volume; of more, the crystal conducts heat as under another pressure."""
MAX_SITE_DISTANCE = 0.06
"""Root mean square, in units of the cube root of the volume per atom."""
MAX_LENGTH_STRAIN = 0.05
MAX_ANGLE = 3.0
"""Degrees."""
MAX_INVARIANTS = np.array([np.log(MAX_VOLUME_RATIO), 1.0, 2.5])
"""Isometry invariants of copies differ by less: by .65 and 1.7 at most in 560 crystals moved to the limits above."""
RELAXATION_VOLUME_RATIO = 1.35
"""One compound, relaxed twice, differs by less in volume."""
RELAXATION_LENGTH_STRAIN = 0.10
"""After scaling to one volume; layers move apart or together."""
RELAXATION_ANGLE = 5.0
"""Degrees."""
RELAXATION_INVARIANTS = np.array([np.log(RELAXATION_VOLUME_RATIO), 3.0, 8.0])
"""As :data:`MAX_INVARIANTS`; by 2.0 and 5.5 at most in 150 pairs of our data sets that match."""


class Placed(NamedTuple):
    """A material that came in, and what it is to those that were there."""

    material: Material
    copy_of: Material | None
    """The material whose crystal it is."""
    relaxation_of: Material | None
    """Where it is no copy: a material of the same compound, relaxed otherwise."""


def same_crystal(a: Material, b: Material) -> bool:
    """Whether two materials are one crystal; polymorphs, and other orderings of one lattice, are not."""
    if a.bucket != b.bucket:
        return False
    if a.content_hash == b.content_hash:
        return True
    return _volume_ratio(a, b) <= MAX_VOLUME_RATIO and _fit(a, b, MAX_LENGTH_STRAIN, MAX_ANGLE)


def told_apart(materials: Sequence[Material], known: Mapping[str, Material]) -> list[Material]:
    """Assign hashes of their own to crystals that share one and are different.

    The hash rests on two numbers that vanish together for some crystals (sums over neighbours that cancel); where it
    is met again under another id, the surroundings of the sites decide.

    Parameters
    ----------
    materials
        In the order in which they came.
    known
        Materials that came before, by content hash.
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
    """Radial distribution of neighbours, a number a shell of .1 spacings, pairs weighted by their elements."""
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
"""Relative; displacements of .003 Angstrom change a shell by a hundredth at most."""
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
        Materials in the order they came; a later one may be a copy of an earlier one.
    known
        Materials there already, by :attr:`Material.bucket`; only those of the new materials' buckets are needed.
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

        Equal hashes come first, they cost nothing.
        """
        if (same := self._by_hash.get(material.content_hash)) is not None:
            return Placed(material, same, None)
        placed = self._near(material) if self._materials else Placed(material, None, None)
        if placed.copy_of is None:
            self._materials.append(material)
            self._by_hash[material.content_hash] = material
        return placed

    def _near(self, material: Material) -> Placed:
        """Match only what invariants do not tell apart, which saves nine in ten of the matches in large buckets.

        Of several that match, the one that stands under the same id.
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
    """Of two crystals with as many sites, at least 1."""
    small, large = sorted((a.crystal.volume, b.crystal.volume))
    return large / small


def _fit(a: Material, b: Material, length_strain: float, angle: float) -> bool:
    matcher = _matcher(length_strain, angle)
    return bool(matcher.fit(_reduced(a), _reduced(b), skip_structure_reduction=True))


def _is_relaxation(a: Material, b: Material) -> bool:
    """Ask the matcher in one order, so that the answer is the same in both."""
    small, large = sorted((a, b), key=lambda m: m.crystal.volume)
    # of all mappings the best: `fit` stops at the first, which strained cells may not be matched by
    best = _matcher(RELAXATION_LENGTH_STRAIN, RELAXATION_ANGLE).get_rms_dist(_reduced(small), _reduced(large))
    return best is not None and bool(best[0] <= MAX_SITE_DISTANCE)


@lru_cache(maxsize=1024)
def _reduced(material: Material) -> Structure:
    """Reduce once: the matcher's own cache compares structures site by site, which takes longer than matching."""
    return material.crystal.to_structure().get_reduced_structure()


@cache
def _matcher(length_strain: float, angle: float) -> StructureMatcher:
    from pymatgen.analysis.structure_matcher import StructureMatcher

    return StructureMatcher(
        ltol=length_strain, stol=MAX_SITE_DISTANCE, angle_tol=angle, primitive_cell=False, scale=True
    )
