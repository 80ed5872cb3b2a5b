"""How likely a substitution of ions in a known crystal gives another known one.

G. Hautier, C. Fischer, V. Ehrlacher, A. Jain, G. Ceder, Inorg. Chem. 50, 656 (2011): conditional probabilities of ion
pairs, fitted to the experimental crystals of the ICSD; parameters and code are pymatgen's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pymatgen.core.structure_prediction.substitution_probability import SubstitutionProbability

Ion = tuple[str, int]
"""Element and oxidation state."""


class Substitution(NamedTuple):
    """The likeliest substitution that leads to a compound."""

    log10_probability: float
    """Sum over the sites of the logarithm of each substitution's conditional probability."""
    known: tuple[str, ...]
    """Elements of the known compound, in site order."""


def likeliest(ions: tuple[Ion, ...], known: Iterable[tuple[Ion, ...]]) -> Substitution | None:
    """The likeliest substitution of the ions of a known compound of the same prototype, sites in the same order.

    None where the model does not know an ion of the compound, or one of each known compound.
    """
    found = [
        Substitution(sum(logarithms), tuple(element for element, _ in compound))
        for compound in known
        if (logarithms := _logarithms(compound, ions)) is not None
    ]
    return max(found, default=None)


def _logarithms(old: tuple[Ion, ...], new: tuple[Ion, ...]) -> list[float] | None:
    each = [_log10_probability(before, after) for before, after in zip(old, new, strict=True)]
    known = [value for value in each if value is not None]
    return known if len(known) == len(each) else None


@cache
def _log10_probability(before: Ion, after: Ion) -> float | None:
    from pymatgen.core import Species

    old, new = Species(*before), Species(*after)
    model = _model()
    if old not in model.species or new not in model.species:
        return None
    return math.log10(model.cond_prob(old, new))


@lru_cache(maxsize=1)
def _model() -> SubstitutionProbability:
    from pymatgen.core.structure_prediction.substitution_probability import SubstitutionProbability

    return SubstitutionProbability()
