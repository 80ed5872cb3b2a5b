"""What every backbone is to those that read embeddings, whether networks are fine-tuned from it or not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from engine.graphs.crystal_graph import CrystalGraph
    from engine.learning.backbones.backbone import Backbone
    from engine.learning.backbones.column_statistics import ColumnStatistics
    from engine.materials.crystal import Crystal


class BackbonePart(Protocol):
    """One backbone, which a stack may hold beside others; embeddings are N x d, with the statistics first."""

    @property
    def name(self) -> str:
        """Name for people."""

    @property
    def sha256(self) -> str:
        """Of all that decides the embeddings."""

    @property
    def card(self) -> Mapping[str, Any]:
        """How it was made, and what it has learned."""

    @property
    def parts(self) -> tuple[BackbonePart, ...]:
        """Itself."""

    @property
    def trained(self) -> tuple[Backbone, ...]:
        """Backbones that networks are fine-tuned from: itself, or none."""

    @property
    def is_potential(self) -> bool:
        """Whether it is an interatomic potential, or the network inside one."""

    @property
    def cutoff(self) -> float:
        """Neighbour cutoff of its graphs in Angstrom."""

    @property
    def elements(self) -> frozenset[str]:
        """Symbols of the elements it knows."""

    @property
    def groups(self) -> dict[str, slice]:
        """Column groups of an embedding, in order."""

    @property
    def embedding_size(self) -> int:
        """Columns of an embedding."""

    @property
    def column_statistics(self) -> ColumnStatistics:
        """Of the embeddings of the crystals it was trained on, where they are known."""

    @property
    def block(self) -> int:
        """Most crystals that are embedded before their embeddings are kept."""

    @property
    def vouched(self) -> str:
        """Name of the file of :meth:`save` whose SHA-256 is :attr:`sha256`."""

    def check_elements(self, crystal: Crystal) -> None:
        """Raise :class:`engine.exceptions.UnknownElementError` if it does not know an element of ``crystal``."""

    def embed_crystals(self, crystals: Iterable[Crystal]) -> NDArray[np.float32]:
        """N x d embeddings without any cache."""

    def embed_with_graphs(self, crystals: Sequence[Crystal]) -> tuple[NDArray[np.float32], list[CrystalGraph]]:
        """N x d embeddings and their N graphs, none where :attr:`trained` is empty."""

    def save(self, folder: Path | str) -> Path:
        """Write it under ``folder``, with a card."""
