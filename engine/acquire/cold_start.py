"""A first batch without a model: crystals as unlike each other, and what is known, as can be.

Farthest-point traversal (Gonzalez, Theor. Comput. Sci. 38, 293 (1985)): each pick is the candidate farthest from all
picks and known rows before it, a two-approximation of the smallest covering radius.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import AcquisitionError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def space_filling(
    embeddings: NDArray[np.float32], q: int, rng: np.random.Generator, known: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Rows of q candidates (of N x d ``embeddings``) in order, and how far each was from all before it.

    Columns are standardised over the candidates. With nothing ``known`` (M x d) the first pick is the candidate nearest
    the centre, so that it does not hang on one odd crystal; ``rng`` breaks ties.
    """
    n = len(embeddings)
    if q > n:
        raise AcquisitionError(f"the pool has {n} candidates, the batch asks for {q}; lower the batch or ingest more")
    order = rng.permutation(n)
    spread = embeddings.std(0)
    scale = np.where(spread > 1e-8, spread, 1.0)
    x = (embeddings[order] - embeddings.mean(0)) / scale
    chosen: list[int] = []
    values: list[float] = []
    distance = np.full(n, np.inf)
    for row in () if known is None else (known - embeddings.mean(0)) / scale:
        distance = np.minimum(distance, np.linalg.norm(x - row, axis=1))
    while len(chosen) < q:
        pick = int(np.argmax(distance)) if np.isfinite(distance).all() else int(np.argmin(np.linalg.norm(x, axis=1)))
        values.append(float(distance[pick]) if np.isfinite(distance[pick]) else 0.0)
        chosen.append(pick)
        distance = np.minimum(distance, np.linalg.norm(x - x[pick], axis=1))
        distance[chosen] = -1.0
    return order[chosen], np.array(values)
