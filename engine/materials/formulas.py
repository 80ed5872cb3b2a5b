"""Comparison of a record's formula with its sites."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.elements import ATOMIC_NUMBERS, quiet_noble_gases
from engine.materials.parsing import ISOTOPES

CLOSE = 1e-4
"""Tolerance of the share of an element: less than one atom in ten thousand."""

_PLAIN = re.compile(r"[\s\d.A-Za-z()\[\]{}]+")
_WORD = re.compile(r"[A-Z(\[{]")


def check_formula(name: str, formula: str, composition: Mapping[str, int]) -> str:
    """Compare a formula with the atoms of a cell; returns a note where the formula cannot be read.

    Raises
    ------
    CrystalError
        If they differ.
    """
    said = shares(formula)
    total = sum(composition.values())
    found = {symbol: count / total for symbol, count in composition.items()}
    if said is not None and all(abs(said.get(s, 0) - found.get(s, 0)) <= CLOSE for s in {*said, *found}):
        return ""
    # CaSO4.2H2O may be a hydrate or a fractional amount of oxygen
    if said is None or "." in formula:
        return f"{name} {formula[:60]!r} cannot be read as a formula, and was not compared with the sites"
    sites = "".join(f"{symbol}{count if count > 1 else ''}" for symbol, count in sorted(composition.items()))
    raise CrystalError(
        RejectionReason.MISSING_FIELD,
        f"{name} is {formula!r}, and the sites make {sites}: atoms are missing or too many",
        "take the structure from its source again, with all its atoms, or correct the formula",
    )


@lru_cache(maxsize=4096)
def shares(formula: str) -> dict[str, float] | None:
    """Share of each element, with its isotopes; None for free text, charges or hydrates."""
    words = formula.split()
    if not words or not _PLAIN.fullmatch(formula) or not all(_WORD.match(word) for word in words):
        return None
    if (counts := _plain_counts(words)) is None:
        counts = _counts(formula)
    total = sum(counts.values()) if counts else 0.0
    return {symbol: count / total for symbol, count in counts.items()} if counts and total > 0 else None


def _plain_counts(words: list[str]) -> dict[str, float] | None:
    """Atoms of each element in a formula of symbols and whole numbers; None for any other, which pymatgen reads."""
    counts: dict[str, float] = {}
    for word in words:
        if not _SYMBOLS_AND_NUMBERS.fullmatch(word):
            return None
        for symbol, number in _SYMBOL_AND_NUMBER.findall(word):
            if symbol not in ATOMIC_NUMBERS:
                return None
            counts[symbol] = counts.get(symbol, 0) + float(number or 1)
    return counts


_SYMBOL_AND_NUMBER = re.compile(r"([A-Z][a-z]?)([1-9][0-9]{0,5})?")
_SYMBOLS_AND_NUMBERS = re.compile(rf"({_SYMBOL_AND_NUMBER.pattern})+")


def _counts(formula: str) -> dict[str, float] | None:
    """Atoms of each element in a formula that pymatgen can read; None where one is not an element."""
    from pymatgen.core import Composition

    quiet_noble_gases()
    try:
        composition = Composition(formula)
    except ValueError:
        return None
    counts: dict[str, float] = {}
    for kind, count in composition.items():
        symbol = ISOTOPES.get(kind.symbol, kind.symbol).lstrip("23")
        if symbol not in ATOMIC_NUMBERS:
            return None
        counts[symbol] = counts.get(symbol, 0) + float(count)
    return counts
