"""Embeddings, and graphs for networks, made once per crystal and backbone and kept on disk by content hash."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import pyarrow as pa

from engine.exceptions import BackboneError
from engine.graphs.crystal_graph import build_graph
from engine.graphs.shards import ShardStore
from engine.graphs.store import GraphStore
from engine.learning.features.composition import COMPOSITION_STATISTICS
from engine.learning.features.statistics import STATISTICS, crystal_statistics
from engine.learning.seeding import one_thread

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.graphs.crystal_graph import CrystalGraph
    from engine.learning.backbones.part import BackbonePart
    from engine.materials.crystal import Crystal

CHUNK = 2048
"""Crystals whose graphs are in memory together."""
Precision = Literal["float32", "float16"]


class Featuriser:
    """What a model sees of a crystal, from ``folder`` where it is known already.

    Keys are content hashes. Embeddings (N x d, see :attr:`Backbone.groups`) live in one folder a backbone and
    precision, graphs in one folder a cutoff.

    Parameters
    ----------
    keep_graphs
        Whether graphs are kept too, for networks; not of a backbone that none is fine-tuned from.
    precision
        Of the embeddings on disk.
    """

    def __init__(
        self, backbone: BackbonePart, folder: Path | str, *, keep_graphs: bool = True, precision: Precision = "float32"
    ):
        self.backbone = backbone
        self.keep_graphs = keep_graphs and bool(backbone.trained)
        self.precision = precision
        self.parts = (self,)
        """Featurisers of the backbones it is made of; see :class:`engine.learning.backbones.stack.StackFeaturiser`."""
        folder = Path(folder)
        self._graphs = GraphStore(folder / "graphs", backbone.cutoff)
        self._type = pa.float16() if precision == "float16" else pa.float32()
        schema = pa.schema({"embedding": pa.list_(self._type, backbone.embedding_size)})
        self._embeddings = ShardStore(folder / "embeddings" / embedding_folder(backbone.sha256, precision), schema)

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of ``keys`` that have no embedding yet, or no graph where graphs are kept."""
        lacking = np.flatnonzero(~self.complete(keys))
        return list(dict.fromkeys(keys[i] for i in lacking.tolist()))

    def complete(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each of ``keys`` has an embedding, and a graph where graphs are kept, N."""
        return self.embedded(keys) & self._graphs.holds(keys) if self.keep_graphs else self.embedded(keys)

    def embedded(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each of ``keys`` has an embedding, N."""
        return self._embeddings.holds(keys)

    def add(self, crystals: Mapping[str, Crystal], on_block: Callable[[str, int], None] | None = None) -> None:
        """Make embeddings, and graphs where they are kept, of those of ``crystals`` that have none.

        ``on_block`` is told the backbone's name and the number of embeddings made, after each block of several.

        Raises
        ------
        UnknownElementError
            If the backbone does not know an element; nothing of that chunk is kept then.
        """
        missing, made = self._embeddings.missing(crystals), 0
        size = min(CHUNK, self.backbone.block)
        for keys in chunks(missing, size):
            self.keep(embed({key: crystals[key] for key in keys}, self.backbone, self.keep_graphs))
            made += len(keys)
            if on_block and len(missing) > size:
                on_block(self.backbone.name, made)
        for keys in chunks(self._graphs.missing(crystals) if self.keep_graphs else [], CHUNK):
            self._graphs.add({key: build_graph(crystals[key], self.backbone.cutoff) for key in keys})

    def keep(self, made: Embedded) -> None:
        """Write what :func:`embed` has made, as one shard of each kind."""
        with np.errstate(over="ignore"):  # told below
            kept = made.embeddings.astype(self.precision)
        if not np.isfinite(kept).all():
            raise BackboneError(
                f"an embedding of backbone {self.backbone.name} does not fit {self.precision} (its largest number is "
                f"{np.abs(made.embeddings).max():g}); keep embeddings in float32"
            )
        flat = pa.array(kept.ravel(), self._type)
        column = pa.FixedSizeListArray.from_arrays(flat, self.backbone.embedding_size)
        self._embeddings.append(made.keys, {"embedding": column})
        if made.graphs:
            self._graphs.add(dict(zip(made.keys, made.graphs, strict=True)))

    def discard_broken(self) -> list[str]:
        """Delete damaged shards, and name them; what they held is missing then."""
        graphs = self._graphs.discard_broken() if self.keep_graphs else []
        return self._embeddings.discard_broken() + graphs

    def embeddings(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """N x d embeddings of ``keys`` in order; one that was never added raises ``KeyError``."""
        return self._embeddings.read_vectors("embedding", keys).astype(np.float32, copy=False)

    def graphs(self, keys: Sequence[str]) -> list[CrystalGraph]:
        """Graphs of ``keys`` in order; one that was never added, or not kept, raises ``KeyError``."""
        return self._graphs.read(keys)


class StatisticsStore:
    """Statistics of crystals without their embedding, kept under ``folder`` by content hash."""

    groups: ClassVar[dict[str, slice]] = {
        "composition": slice(0, len(COMPOSITION_STATISTICS)),
        "bonding": slice(len(COMPOSITION_STATISTICS), len(STATISTICS)),
    }
    """Columns, as :attr:`Backbone.groups` has them."""

    def __init__(self, folder: Path | str):
        self._type = pa.list_(pa.float32(), len(STATISTICS))
        name = hashlib.sha256("\n".join(STATISTICS).encode()).hexdigest()[:32]
        self._shards = ShardStore(Path(folder) / "statistics" / name, pa.schema({"statistics": self._type}))

    def holds(self, keys: Sequence[str]) -> NDArray[np.bool_]:
        """Whether the statistics of each of ``keys`` are known, N."""
        return self._shards.holds(keys)

    def keep(self, keys: Sequence[str], statistics: NDArray[np.float32]) -> None:
        """Write what :func:`describe` has made, as one shard."""
        flat = pa.array(statistics.ravel(), pa.float32())
        self._shards.append(keys, {"statistics": pa.FixedSizeListArray.from_arrays(flat, len(STATISTICS))})

    def read(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """N x 88 statistics of ``keys`` in order; one that was never kept raises ``KeyError``."""
        return self._shards.read_vectors("statistics", keys)


def describe(crystals: Mapping[str, Crystal]) -> tuple[list[str], NDArray[np.float32]]:
    """Content hashes, and statistics (N x 88)."""
    return list(crystals), crystal_statistics(crystals.values())


@dataclass(frozen=True, eq=False)
class Embedded:
    """Crystals as a model sees them: N content hashes, N x d embeddings, and N graphs where they were asked for."""

    keys: list[str]
    embeddings: NDArray[np.float32]
    graphs: list[CrystalGraph]


def embed(crystals: Mapping[str, Crystal], backbone: BackbonePart, keep_graphs: bool) -> Embedded:
    """Make graphs and embeddings; on one thread, so that a result does not depend on who makes it.

    Memory holds all graphs, and one batch of the network's pass, which is bounded by edges.
    """
    for crystal in crystals.values():
        backbone.check_elements(crystal)
    with one_thread():
        embeddings, graphs = backbone.embed_with_graphs(list(crystals.values()))
    return Embedded(list(crystals), embeddings, graphs if keep_graphs else [])


def embedding_folder(backbone_sha256: str, precision: Precision) -> str:
    """Name of the folder of the embeddings of one backbone in one precision."""
    return backbone_sha256[:32] + ("" if precision == "float32" else f"-{precision}")


def chunks(keys: Sequence[str], size: int = CHUNK) -> Iterator[Sequence[str]]:
    """Slices of ``keys`` of at most ``size``."""
    for start in range(0, len(keys), size):
        yield keys[start : start + size]
