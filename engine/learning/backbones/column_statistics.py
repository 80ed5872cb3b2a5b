"""Mean and spread of each column of embeddings over the crystals a backbone was trained on.

The spread of few labelled rows is no substitute: a column in which eight of them happen to agree becomes, once it is
divided by their spread, the one that decides every distance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

MIN_CRYSTALS = 300
"""Fewer tell no more than labelled rows do."""
MAX_CRYSTALS = 2000
"""More tell nothing new."""


@dataclass(frozen=True, eq=False)
class ColumnStatistics:
    """Mean and standard deviation of each column (d each), NaN where they are not known."""

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    @classmethod
    def of(cls, embeddings: NDArray[np.float32]) -> ColumnStatistics:
        """Of N crystals' embeddings (N x d)."""
        rows = np.asarray(embeddings, dtype=np.float64)
        return cls(rows.mean(axis=0), rows.std(axis=0))

    @classmethod
    def unknown(cls, size: int) -> ColumnStatistics:
        """Of ``size`` columns that nothing is known of."""
        return cls(*np.full((2, size), np.nan))

    @classmethod
    def from_card(cls, entry: Mapping[str, Sequence[float]]) -> ColumnStatistics:
        """As :meth:`to_card` gave it."""
        return cls(np.array(entry["mean"]), np.array(entry["std"]))

    def to_card(self) -> dict[str, Any]:
        """JSON-ready, in the seven digits of single precision."""
        columns = {"mean": self.mean, "std": self.std}
        return {name: [float(f"{value:.7g}") for value in column] for name, column in columns.items()}

    def first(self, size: int) -> ColumnStatistics:
        """Of the first ``size`` columns."""
        return ColumnStatistics(self.mean[:size], self.std[:size])

    def joined(self, other: ColumnStatistics, first: int) -> ColumnStatistics:
        """These columns, then those of ``other`` from the ``first`` on."""
        return ColumnStatistics(np.append(self.mean, other.mean[first:]), np.append(self.std, other.std[first:]))

    def standardisation(self, rows: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Centre and scale (d each) of the columns; of ``rows`` (n x d) where it knows none or no spread."""
        known = np.nan_to_num(self.std) > 1e-8  # NaN becomes 0
        centre = np.where(known, self.mean, rows.mean(axis=0))
        scale = np.where(known, self.std, rows.std(axis=0, ddof=1))
        return centre, scale
