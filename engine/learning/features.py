"""Graphs and embeddings made once per crystal and backbone, kept on disk by content hash."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from engine.graphs.shards import ShardStore
from engine.graphs.store import GraphStore
from engine.learning.statistics import crystal_statistics

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.graphs.crystal_graph import CrystalGraph
    from engine.learning.backbone import Backbone
    from engine.materials.crystal import Crystal

CHUNK = 2048
"""Crystals whose graphs are in memory together."""


class Featuriser:
    """What a model sees of a crystal, from ``folder`` where it is known already.

    Keys are content hashes. Embeddings (N x d, see :attr:`Backbone.groups`) live in one folder a backbone, graphs in
    one folder a cutoff.
    """

    def __init__(self, backbone: Backbone, folder: Path | str):
        self.backbone = backbone
        self.parts = (self,)
        """Featurisers of the backbones it is made of; see :class:`engine.learning.mixture.MixedFeaturiser`."""
        folder = Path(folder)
        self._graphs = GraphStore(folder / "graphs", backbone.cutoff)
        schema = pa.schema({"embedding": pa.list_(pa.float32(), backbone.embedding_size)})
        self._embeddings = ShardStore(folder / "embeddings" / backbone.sha256[:32], schema)

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of ``keys`` that have no embedding yet."""
        return self._embeddings.missing(keys)

    def add(self, crystals: Mapping[str, Crystal]) -> None:
        """Make graphs and embeddings of those of ``crystals`` that have none.

        Raises
        ------
        UnknownElementError
            If the backbone does not know an element; nothing of that chunk is kept then.
        """
        todo = iter(self.missing(list(crystals)))
        while keys := list(islice(todo, CHUNK)):
            chunk = {key: crystals[key] for key in keys}
            for crystal in chunk.values():
                self.backbone.check_elements(crystal)
            embeddings = self.backbone.embed(self._graphs.get(chunk), crystal_statistics(chunk.values()))
            flat = pa.array(embeddings.ravel(), pa.float32())
            column = pa.FixedSizeListArray.from_arrays(flat, self.backbone.embedding_size)
            self._embeddings.append(keys, {"embedding": column})

    def embeddings(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """N x d embeddings of ``keys`` in order; one that was never added raises ``KeyError``."""
        column = self._embeddings.read(keys).column("embedding").combine_chunks()
        return column.flatten().to_numpy(zero_copy_only=False).reshape(-1, self.backbone.embedding_size)

    def graphs(self, keys: Sequence[str]) -> list[CrystalGraph]:
        """Graphs of ``keys`` in order; one that was never added raises ``KeyError``."""
        return self._graphs.read(keys)


def chunks(keys: Sequence[str], size: int = CHUNK) -> Iterator[Sequence[str]]:
    """Slices of ``keys`` of at most ``size``."""
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
