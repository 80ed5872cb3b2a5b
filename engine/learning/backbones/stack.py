"""Several backbones side by side: one crystal's statistics once, then the columns of each.

What reads an embedding sees one wide one, with groups of columns for every backbone, so that a Gaussian process gives
each its own length scales and weights; fine-tuned networks take turns, member k on the (k modulo n)-th backbone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.exceptions import BackboneError
from engine.learning.backbones.backbone import Backbone
from engine.learning.backbones.column_statistics import ColumnStatistics
from engine.learning.backbones.part import BackbonePart
from engine.learning.features.featuriser import Featuriser, Precision
from engine.learning.features.statistics import STATISTICS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.materials.crystal import Crystal

_OWN = slice(len(STATISTICS), None)
"""Columns that a backbone adds to the statistics."""


@dataclass(frozen=True, eq=False)
class BackboneStack:
    """Backbones read as one; :func:`mixed` makes it, so that one alone stays what it is."""

    parts: tuple[BackbonePart, ...]

    def __post_init__(self) -> None:
        """Refuse one backbone named twice, and backbones that have no element in common."""
        if len({part.sha256 for part in self.parts}) < len(self.parts):
            raise BackboneError(f"{self.name} names the same weights twice; name each backbone once")
        if not self.elements:
            raise BackboneError(f"the backbones {self.name} have no element in common; choose others")

    @property
    def name(self) -> str:
        """Names of the backbones, joined."""
        return " + ".join(part.name for part in self.parts)

    @cached_property
    def sha256(self) -> str:
        """Of the hashes of the backbones, in order."""
        return hashlib.sha256("\n".join(part.sha256 for part in self.parts).encode()).hexdigest()

    @property
    def elements(self) -> frozenset[str]:
        """Symbols of the elements that all of them know."""
        return frozenset.intersection(*(part.elements for part in self.parts))

    @property
    def groups(self) -> dict[str, slice]:
        """Column groups of an embedding, in order: statistics, ``readout``, ``trunk``, ``readout_2``, ..."""
        groups: dict[str, slice] = {}
        shift = 0
        for number, part in enumerate(self.parts, start=1):
            for name, columns in part.groups.items():
                own = columns.start >= len(STATISTICS)
                if own or number == 1:
                    label = f"{name}_{number}" if number > 1 else name
                    groups[label] = slice(columns.start + shift, columns.stop + shift)
            shift += part.embedding_size - len(STATISTICS)
        return groups

    @property
    def embedding_size(self) -> int:
        """Columns of an embedding."""
        return len(STATISTICS) + sum(part.embedding_size - len(STATISTICS) for part in self.parts)

    @cached_property
    def column_statistics(self) -> ColumnStatistics:
        """Of the embeddings of the crystals that each of them was trained on; of the statistics the first one's."""
        found = self.parts[0].column_statistics
        for part in self.parts[1:]:
            found = found.joined(part.column_statistics, first=len(STATISTICS))
        return found

    @property
    def card(self) -> Mapping[str, Any]:
        """What all of them have seen, and the stages of each."""
        seen: dict[str, set[str]] = {}
        for part in self.parts:
            for name, hashes in part.card.get("seen", {}).items():
                seen.setdefault(name, set()).update(hashes)
        lineage = [{**stage, "backbone": p.name} for p in self.parts for stage in p.card.get("lineage", [])]
        return {"seen": {name: sorted(hashes) for name, hashes in seen.items()}, "lineage": lineage}

    @property
    def is_potential(self) -> bool:
        """Whether no backbone but potentials is in it."""
        return all(part.is_potential for part in self.parts)

    @property
    def trained(self) -> tuple[Backbone, ...]:
        """Backbones that networks are fine-tuned from: potentials, which are large, only give columns beside others."""
        others = [part for part in self.parts if not part.is_potential]
        return tuple(backbone for part in others or self.parts for backbone in part.trained)

    def check_elements(self, crystal: Crystal) -> None:
        """Raise :class:`UnknownElementError` if one of them does not know an element of ``crystal``."""
        for part in self.parts:
            part.check_elements(crystal)

    def embed_crystals(self, crystals: Iterable[Crystal]) -> NDArray[np.float32]:
        """N x d embeddings without any cache."""
        crystals = list(crystals)
        return _side_by_side([part.embed_crystals(crystals) for part in self.parts])


class StackFeaturiser:
    """What a model on several backbones reads of a crystal: the embeddings of each, which keeps its own on disk."""

    def __init__(
        self, backbone: BackboneStack, folder: Path | str, *, keep_graphs: bool = True, precision: Precision = "float32"
    ):
        self.backbone = backbone
        self.parts = tuple(
            Featuriser(part, folder, keep_graphs=keep_graphs, precision=precision) for part in backbone.parts
        )

    def missing(self, keys: Sequence[str]) -> list[str]:
        """Those of ``keys`` that lack an embedding of any backbone."""
        lacking = {key for part in self.parts for key in part.missing(keys)}
        return [key for key in dict.fromkeys(keys) if key in lacking]

    def add(self, crystals: Mapping[str, Crystal], on_block: Callable[[str, int], None] | None = None) -> None:
        """Make graphs and embeddings of those of ``crystals`` that have none; see :meth:`Featuriser.add`."""
        for part in self.parts:
            part.add(crystals, on_block)

    def discard_broken(self) -> list[str]:
        """Delete damaged shards, and name them; what they held is missing then."""
        return [name for part in self.parts for name in part.discard_broken()]

    def embeddings(self, keys: Sequence[str]) -> NDArray[np.float32]:
        """N x d embeddings of ``keys`` in order; one that was never added raises ``KeyError``."""
        return _side_by_side([part.embeddings(keys) for part in self.parts])


AnyBackbone = BackbonePart | BackboneStack
AnyFeaturiser = Featuriser | StackFeaturiser


def stacked(backbones: Sequence[AnyBackbone]) -> AnyBackbone:
    """Read backbones as one; a single one is given back as it is."""
    parts = tuple(part for backbone in backbones for part in backbone.parts)
    return parts[0] if len(parts) == 1 else BackboneStack(parts)


def make_featuriser(
    backbone: AnyBackbone, folder: Path | str, *, keep_graphs: bool = True, precision: Precision = "float32"
) -> AnyFeaturiser:
    """Featuriser that makes the embeddings of ``backbone`` and keeps them under ``folder``; see :class:`Featuriser`."""
    kind = StackFeaturiser if isinstance(backbone, BackboneStack) else Featuriser
    return kind(backbone, folder, keep_graphs=keep_graphs, precision=precision)  # type: ignore[arg-type]


def _side_by_side(embeddings: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    first, *others = embeddings
    return np.concatenate([first, *(embedding[:, _OWN] for embedding in others)], axis=1)
