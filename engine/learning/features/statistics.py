"""What is known of a crystal without learning: its composition and bonding statistics side by side."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from engine.learning.features.bonding import BONDING_STATISTICS, bonding_statistics
from engine.learning.features.composition import COMPOSITION_STATISTICS, composition_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.graphs.crystal_graph import CrystalGraph
    from engine.materials.crystal import Crystal

STATISTICS: tuple[str, ...] = (*COMPOSITION_STATISTICS, *BONDING_STATISTICS)
"""Names of the columns, those of the composition first."""


@cache
def typical_spread() -> NDArray[np.float32]:
    """Standard deviation of each of the 88 statistics over the crystals of the reference, which are varied."""
    from engine.materials.reference import reference_crystals

    spread: NDArray[np.float32] = crystal_statistics(reference_crystals().values()).std(axis=0)
    return spread


def crystal_statistics(
    crystals: Iterable[Crystal], graphs: Iterable[CrystalGraph] | None = None
) -> NDArray[np.float32]:
    """N x 88 statistics, columns as in :data:`STATISTICS`; see :func:`bonding_statistics` for the graphs."""
    crystals = list(crystals)
    return np.concatenate([composition_statistics(crystals), bonding_statistics(crystals, graphs)], axis=1)
