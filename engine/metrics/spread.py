"""Components of a predicted spread: disagreement between members, and the noise that each expects of a label.

The variance of a mixture of S Gaussians is the variance of their means plus the mean of their variances
(Lakshminarayanan, Pritzel, Blundell, NeurIPS 2017, arXiv:1612.01474); the first part shrinks with more labels, the
second is irreducible (Depeweg et al., ICML 2018, arXiv:1710.07283). The variance of the means is computed
with S - 1, as in :meth:`engine.learning.ensemble.ensemble.MemberTable.total`, because a handful of members is a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, eq=False)
class Spread:
    """Standard deviations of N predictions in learned units: ``between`` members, ``within`` members, ``total``."""

    between: NDArray[np.float64]
    within: NDArray[np.float64]

    @property
    def total(self) -> NDArray[np.float64]:
        """Root of the sum of the two variances, N."""
        return np.hypot(self.between, self.within)

    def scaled(self, factor: ArrayLike) -> Spread:
        """Multiply both parts by a calibration factor, one for all or one for each row."""
        factor = np.asarray(factor, dtype=np.float64)
        return Spread(self.between * factor, self.within * factor)

    def summary(self) -> dict[str, float]:
        """Root mean variances of the three, and the share of the variance that lies between members."""
        between, within, total = (float(np.square(part).mean()) for part in (self.between, self.within, self.total))
        return {
            "between": between**0.5,
            "within": within**0.5,
            "total": total**0.5,
            "between_share": between / total if total else 0.0,
        }


def decompose(member_mean: ArrayLike, member_std: ArrayLike | None = None) -> Spread:
    """Components of the spread of ``S x N`` member means and, where members predict them, standard deviations."""
    mean = np.asarray(member_mean, dtype=np.float64)
    if mean.ndim != 2 or len(mean) < 2:
        raise ValueError(f"expected means of shape S x N with at least 2 members, received {mean.shape}")
    within = np.zeros(mean.shape[1])
    if member_std is not None:
        own = np.asarray(member_std, dtype=np.float64)
        if own.shape != mean.shape:
            raise ValueError(f"expected standard deviations of shape {mean.shape} as the means, received {own.shape}")
        within = np.sqrt(np.square(own).mean(axis=0))
    return Spread(mean.std(axis=0, ddof=1), within)
