"""Leaks: a model trained on the answers, or on values of the same calculation, may not be evaluated on them.

A backbone's card lists, for every property that it was trained on, the first 12 hex digits of the content hash of each
crystal. A crystal of the pool leaks if the model was trained, for it, on

- the property itself, whatever its spelling: unit, temperature and scaling in a name do not make it another one
  (``kappa_300K``, ``kappa_300K_W_mK``, ``Kappa(300 K)``);
- a property of the same **family** (:data:`FAMILIES`), which one calculation gives all at once. AGL and AEL values
  come from one set of strained cells: AGL's conductivity is a formula of its Debye temperature, Grueneisen parameter
  and volume. First-principles conductivities at other temperatures, along other directions or by another solver
  come from one set of force constants;
- another column of the backtest's own file that ranks the pool nearly as the answer does (Spearman above 0.9 either
  way), whatever its name.

AGL and first-principles conductivities are separate families: learning from one to find the other is transfer,
which is what this program is for. So are elastic moduli of other databases. Crystals are compared by content hash; the
same compound relaxed by another database is another calculation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.property_families import canonical, family
from engine.learning.ensemble.records import SEEN_DIGITS

if TYPE_CHECKING:
    from campaigns.backtest.protocol import LabelledPool

NEARLY_THE_SAME = 0.9
"""Absolute Spearman correlation with the answer from which another column counts as derived from it."""
_FEWEST = 10
"""Fewest rows for a correlation."""


@dataclass(frozen=True)
class Leak:
    """Answers of the pool that a starting model was trained on."""

    seen: str
    """Property that it was trained on."""
    ids: tuple[str, ...]
    """Materials of the pool whose values of it were in the training."""
    why: str
    """How the property determines the answer; empty where it is the property itself."""

    def describe(self) -> str:
        """``kappa_300K of 60 materials of this pool (e.g. mp-149)``, and how that determines the answer."""
        because = f", {self.why}" if self.why else ""
        return f"{self.seen} of {len(self.ids)} materials of this pool (e.g. {self.ids[0]}){because}"


def leaking_properties(pool: LabelledPool, property: str) -> set[str]:
    """Columns of the pool that reveal the answers, the answers included: hidden until a label has been acquired."""
    columns = {name for m in pool.materials for name in m.properties}
    return {name for name in columns if _kinship(name, property, pool) is not None}


def find_leaks(pool: LabelledPool, property: str, card: Mapping[str, Any]) -> list[Leak]:
    """Everything among the answers that the model with this ``card`` was trained on, worst first."""
    leaks = []
    for name, hashes in card.get("seen", {}).items():
        known = set(hashes)
        ids = tuple(m.id for m in pool.materials if m.content_hash[:SEEN_DIGITS] in known)
        why = _kinship(name, property, pool) if ids else None
        if why is not None:
            leaks.append(Leak(name, ids, why))
    return sorted(leaks, key=lambda leak: (bool(leak.why), -len(leak.ids)))


def _kinship(seen: str, property: str, pool: LabelledPool) -> str | None:
    """How ``seen`` determines ``property``; None if it does not, empty if they are the same property."""
    if canonical(seen) == canonical(property):
        return ""
    group = family(property)
    if group is not None and family(seen) == group:
        return f"which comes from the same calculation as {property} ({group})"
    columns = {name for m in pool.materials for name in m.properties if canonical(name) == canonical(seen)}
    for name in sorted(columns - {property}):
        correlation = _rank_correlation([m.properties.get(name) for m in pool.materials], pool)
        if abs(correlation) > NEARLY_THE_SAME:
            return f"which ranks this pool as {property} does (Spearman {correlation:.2f} with the file's {name})"
    return None


def _rank_correlation(column: Sequence[object], pool: LabelledPool) -> float:
    from scipy.stats import rankdata

    numbers = [float(v) if isinstance(v, int | float) else np.nan for v in column]
    there = np.isfinite(numbers)
    if there.sum() < _FEWEST:
        return 0.0
    ranks = [rankdata(np.asarray(v)[there]) for v in (numbers, pool.values)]
    if min(np.ptp(r) for r in ranks) == 0:
        return 0.0
    return float(np.corrcoef(*ranks)[0, 1])
