"""Graphs on disk, keyed by content hash.

Only networks read them again; heads on embeddings never do, and building them again would cost a twentieth of an
embedding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine.graphs.crystal_graph import GRAPH_VERSION, CrystalGraph
from engine.graphs.shards import ShardStore

if TYPE_CHECKING:
    from numpy.typing import NDArray

_SCHEMA = pa.schema(
    {
        "numbers": pa.list_(pa.int16()),
        "positions": pa.list_(pa.float32()),
        "edges": pa.list_(pa.int32()),
        "shifts": pa.list_(pa.float32()),
    }
)


class GraphStore:
    """Graphs of one cutoff (Angstrom) under ``folder``."""

    def __init__(self, folder: Path | str, cutoff: float):
        self.cutoff = cutoff
        self._shards = ShardStore(Path(folder) / f"v{GRAPH_VERSION}-cutoff-{cutoff:g}", _SCHEMA)

    def missing(self, keys: Iterable[str]) -> list[str]:
        """The ``keys`` without a graph."""
        return self._shards.missing(keys)

    def holds(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each of ``keys`` has a graph, N."""
        return self._shards.holds(keys)

    def discard_broken(self) -> list[str]:
        """Delete damaged shards, and name them; their graphs are missing then."""
        return self._shards.discard_broken()

    def add(self, graphs: Mapping[str, CrystalGraph]) -> None:
        """Store graphs under their content hashes."""
        self._shards.append(
            list(graphs),
            {
                "numbers": [g.numbers for g in graphs.values()],
                "positions": [g.positions.ravel() for g in graphs.values()],
                "edges": [g.edges.ravel() for g in graphs.values()],
                "shifts": [g.shifts.ravel() for g in graphs.values()],
            },
        )

    def read(self, keys: Sequence[str]) -> list[CrystalGraph]:
        """Graphs from disk; an absent key raises ``KeyError``."""
        table = self._shards.read(keys)
        columns = {name: _rows(table.column(name)) for name in _SCHEMA.names}
        return [
            CrystalGraph(numbers, positions.reshape(-1, 3), edges.reshape(2, -1), shifts.reshape(-1, 3))
            for numbers, positions, edges, shifts in zip(
                columns["numbers"], columns["positions"], columns["edges"], columns["shifts"], strict=True
            )
        ]


def _rows(column: pa.ChunkedArray) -> list[np.ndarray]:
    values = column.combine_chunks()
    flat = values.flatten().to_numpy()
    offsets = values.offsets.to_numpy() - values.offsets[0].as_py()
    return [flat[a:b] for a, b in pairwise(offsets)]
