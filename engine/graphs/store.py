"""Graphs on disk, keyed by content hash: each crystal becomes a graph once per cutoff."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine.graphs.crystal_graph import GRAPH_VERSION, CrystalGraph, build_graph
from engine.graphs.shards import ShardStore

if TYPE_CHECKING:
    from engine.materials.crystal import Crystal

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

    def get(self, crystals: Mapping[str, Crystal]) -> list[CrystalGraph]:
        """Graphs of ``crystals`` (content hash -> crystal) in their order; those not on disk are built and kept."""
        missing = self._shards.missing(crystals)
        if missing:
            graphs = [build_graph(crystals[key], self.cutoff) for key in missing]
            self._shards.append(
                missing,
                {
                    "numbers": [g.numbers for g in graphs],
                    "positions": [g.positions.ravel() for g in graphs],
                    "edges": [g.edges.ravel() for g in graphs],
                    "shifts": [g.shifts.ravel() for g in graphs],
                },
            )
        return self.read(list(crystals))

    def read(self, keys: Sequence[str]) -> list[CrystalGraph]:
        """Graphs that are on disk already; an absent key raises ``KeyError``."""
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
