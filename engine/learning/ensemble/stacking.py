"""What stands beside Gaussian-process members, networks or trees, and the share of the mean that each of them has.

Held-out errors decide the shares (super learner, van der Laan et al., Stat. Appl. Genet. Mol. Biol. 6, 25, 2007), drawn
towards equal ones by a few imagined labels, since the errors of a handful of labels say little (Diebold and Pauly, Int.
J. Forecast. 6, 503, 1990). For each fold the errors of the others decide, so that the figures stay honest.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.stack import AnyFeaturiser

PRIOR_LABELS = 10
"""Imagined labels that ask for equal shares."""
SMALLEST = 0.05
"""A smaller share is not worth its time: none is given instead."""
_STEPS = 20
"""Shares are whole multiples of one by this, before they are drawn together."""


class Partner(Protocol):
    """Estimates a crystal by itself."""

    def estimate(
        self, featuriser: AnyFeaturiser, keys: Sequence[str], embeddings: NDArray[np.float32]
    ) -> NDArray[np.float64]:
        """N estimates; ``embeddings`` (N x d) are those of ``keys``."""


@dataclass(frozen=True, eq=False)
class Blend:
    """Partners of the members by name, and the share of the mean that each has; the members have the rest."""

    partners: Mapping[str, Partner]
    shares: Mapping[str, float]

    def __call__(
        self,
        mean: NDArray[np.float64],
        featuriser: AnyFeaturiser,
        keys: Sequence[str],
        embeddings: NDArray[np.float32],
    ) -> NDArray[np.float64]:
        """Mean of members (... x N) and partners together."""
        blended = (1 - sum(self.shares.values())) * mean
        for name, partner in self.partners.items():
            blended = blended + self.shares[name] * partner.estimate(featuriser, keys, embeddings)
        return blended


def held_out_shares(
    values: NDArray[np.float64],
    mean: NDArray[np.float64],
    estimates: NDArray[np.float64],
    folds: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Held-out blend of n labels, each fold with the shares that the others ask for; the shares (P) that all ask for.

    ``mean`` (n) is that of the members and ``estimates`` (P x n) those of their partners, all held out.
    """
    grid = _shares(len(estimates))
    blends = mean + grid @ (estimates - mean)
    errors = np.abs(blends - values)
    blended = np.empty_like(mean)
    for k in np.unique(folds):
        held = folds == k
        shares = _drawn_together(grid[errors[:, ~held].mean(axis=1).argmin()], int(np.count_nonzero(~held)))
        blended[held] = mean[held] + shares @ (estimates - mean)[:, held]
    return blended, _drawn_together(grid[errors.mean(axis=1).argmin()], len(values))


def _shares(n_partners: int) -> NDArray[np.float64]:
    """Shares of the partners (G x P) that leave the members none or more."""
    steps = itertools.product(range(_STEPS + 1), repeat=n_partners)
    return np.array([taken for taken in steps if sum(taken) <= _STEPS]) / _STEPS


def _drawn_together(best: NDArray[np.float64], n_labels: int) -> NDArray[np.float64]:
    equal = 1 / (len(best) + 1)
    shares = (n_labels * best + PRIOR_LABELS * equal) / (n_labels + PRIOR_LABELS)
    return np.where(shares < SMALLEST, 0.0, shares)
