"""Fine-tuned networks as members of an ensemble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from engine.learning.heads.kinds import NETWORK, HeadKind
from engine.learning.heads.members import Members, TrainingData
from engine.learning.networks.committee import networks_of
from engine.learning.networks.finetune import NetworkHead

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.heads.multifidelity import MultiFidelityHead
    from engine.learning.networks.graph_data import Crystals


@dataclass(frozen=True, eq=False)
class NetworkMembers(Members[NetworkHead]):
    """Networks with their own heads; member k is of the (k modulo n)-th of n backbones."""

    kind: ClassVar[HeadKind] = NETWORK

    @classmethod
    def fit_heads(cls, data: TrainingData) -> tuple[NetworkHead, ...]:
        """See :meth:`Members.fit_heads`."""
        return data.networks

    @classmethod
    def predict_head(
        cls, head: NetworkHead, crystals: Crystals, number: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """See :meth:`Members.predict_head`; a network knows a standard deviation if it learned its noise."""
        return head.predict_with_std(crystals.graphs[number % len(crystals.graphs)], rows)

    def to_tensors(self) -> list[dict[str, Tensor]]:
        """See :meth:`Members.to_tensors`."""
        return [head.to_tensors() for head in self.heads]

    @classmethod
    def from_tensors(
        cls, tensors: Sequence[Mapping[str, Tensor]], backbone: AnyBackbone, lower: MultiFidelityHead | None
    ) -> NetworkMembers:
        """See :meth:`Members.from_tensors`."""
        return cls(networks_of(backbone, tensors))

    @property
    def network(self) -> NetworkHead:
        """The first member's."""
        return self.heads[0]
