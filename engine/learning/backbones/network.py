"""A body, a trunk that joins its readout with statistics of the crystal, and one linear head per property."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from engine.exceptions import BackboneError
from engine.learning.backbones.composition import CompositionNetwork
from engine.learning.features.composition import FORMULA_COLUMNS
from engine.learning.features.statistics import STATISTICS, typical_spread

if TYPE_CHECKING:
    from torch_geometric.data import Data


_NARROWEST = 0.1


class GraphNetwork(nn.Module):
    """Crystal graph and composition statistics in, one standardised value per property out.

    Parameters
    ----------
    body
        A MatGL model that leaves its crystal embedding in ``feature_dict["readout"]``, or a composition network, whose
        trunk reads those statistics alone that the formula determines.
    readout_size
        Length of that embedding.
    properties
        Names of the predicted properties, in the order of the output columns; with none there is neither trunk nor
        head, only the body's readout.
    trunk_size
        Width of the shared layers between readout and heads.
    predicts_noise
        Whether it has a second output for each property, the logarithm of the variance of a label.
    teacher_columns
        Columns of teachers that it learns to give beside the properties; none but while it is trained on them.
    """

    statistics_mean: Tensor
    statistics_std: Tensor

    def __init__(
        self,
        body: nn.Module,
        readout_size: int,
        properties: Sequence[str],
        trunk_size: int = 128,
        predicts_noise: bool = False,
        teacher_columns: int = 0,
    ):
        super().__init__()
        self.body = body
        self.readout_size = readout_size
        self.properties = tuple(properties)
        self.register_buffer("statistics_mean", torch.zeros(len(STATISTICS)))
        self.register_buffer("statistics_std", torch.ones(len(STATISTICS)))
        self.trunk_size = trunk_size if self.properties else 0
        self.reads_structure = not isinstance(body, CompositionNetwork)
        n_statistics = len(STATISTICS) if self.reads_structure else len(FORMULA_COLUMNS)
        if self.properties:
            self.trunk = nn.Sequential(
                nn.Linear(readout_size + n_statistics, trunk_size),
                nn.SiLU(),
                nn.Linear(trunk_size, trunk_size),
                nn.SiLU(),
            )
            self.heads = nn.Linear(trunk_size, len(self.properties))
        self.noise: nn.Linear | None = nn.Linear(trunk_size, len(self.properties)) if predicts_noise else None
        self.imitation: nn.Linear | None = nn.Linear(trunk_size, teacher_columns) if teacher_columns else None

    def fit_statistics(self, statistics: Tensor) -> None:
        """Set the scale of the statistics to that of training rows (N x 88).

        A column in which few rows are (nearly) equal has no scale of its own: another crystal would be thousands of
        deviations away, and so would its prediction. It gets a tenth of what it varies by among common crystals.
        """
        floor = _NARROWEST * torch.from_numpy(typical_spread())
        self.statistics_mean.copy_(statistics.mean(0))
        self.statistics_std.copy_(torch.maximum(statistics.std(0), floor.to(statistics.device)))

    def leave_training(self) -> None:
        """Drop what only serves to learn: how noisy the labels were, and what teachers said."""
        self.noise = self.imitation = None

    def embed(self, batch: Data, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Readout (N x ``readout_size``) and trunk (N x ``trunk_size``) of a batch of N crystals."""
        readout = body_readout(self.body, batch)
        if not self.properties:
            return readout, readout.new_empty(len(readout), 0)
        return readout, self.join(readout, statistics)

    def join(self, readout: Tensor, statistics: Tensor) -> Tensor:
        """Trunk (N x ``trunk_size``) of readouts (N x ``readout_size``) and statistics (N x 88)."""
        scaled = (statistics - self.statistics_mean) / self.statistics_std
        if not self.reads_structure:
            scaled = scaled[:, FORMULA_COLUMNS]
        return self.trunk(torch.cat([readout, scaled], dim=1))

    def forward(self, batch: Data, statistics: Tensor) -> Tensor:
        """N x ``len(properties)`` standardised values."""
        return self.heads(self.embed(batch, statistics)[1])


def body_features(body: Any, batch: Data) -> dict[str, Any]:
    """All that a MatGL model computes on the way, by its own names (``embedding``, ``gc_1``, ..., ``readout``)."""
    body(g=batch, state_attr=_state(body, batch))
    # emptied, since it would keep the whole pass alive and cannot be copied while it holds gradients
    features, body.feature_dict = body.feature_dict, {}
    return features


def body_readout(body: Any, batch: Data) -> Tensor:
    """Crystal embeddings (N x d) of a MatGL model: its readout, averaged over atoms where it is one row an atom.

    A model of extensive quantities reads out one energy an atom; its last atom features stand for it.
    """
    n = batch.num_graphs
    features = body_features(body, batch)
    readout = features.get("readout")
    if readout is None:
        raise BackboneError(
            f"{type(body).__name__} leaves no 'readout' in feature_dict, so it has no crystal embedding; "
            "use a MatGL model such as MEGNet, M3GNet or TensorNet"
        )
    if readout.shape[1] == 1:
        blocks = [block for name, block in features.items() if name.startswith("gc_")]
        readout = blocks[-1]["node_feat"]
    if readout.shape[0] == n:
        return readout
    if readout.shape[0] == batch.pos.shape[0]:
        total = readout.new_zeros(n, readout.shape[1]).index_add_(0, batch.batch, readout)
        return total / torch.bincount(batch.batch, minlength=n).unsqueeze(1)
    raise BackboneError(
        f"{type(body).__name__} gives a readout of shape {tuple(readout.shape)} for {n} crystals and "
        f"{batch.pos.shape[0]} atoms; expected one row a crystal or one row an atom"
    )


def _state(body: Any, batch: Data) -> Tensor | None:
    """Neutral global state (N x its size) of a MatGL model that reads one."""
    embedding: Any = getattr(body, "embedding", None)
    if not getattr(embedding, "include_state", False):
        return None
    if embedding.ntypes_state is not None or embedding.dim_state_feats is not None:
        raise BackboneError(
            f"{type(body).__name__} wants a learned state for every crystal (ntypes_state {embedding.ntypes_state}, "
            f"dim_state_feats {embedding.dim_state_feats}), which no crystal of ours has; use a model without"
        )
    return batch.pos.new_zeros(batch.num_graphs, embedding.dim_state_embedding)
