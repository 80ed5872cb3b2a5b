"""Gaussian processes as members of an ensemble, alone or above a lower fidelity."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from engine.exceptions import TrainingError
from engine.learning.heads.discrepancy import OTHER_PROPERTY, SAME_PROPERTY
from engine.learning.heads.folds import FoldPredictor, kept_rows, union
from engine.learning.heads.gp import BLOCK, GaussianProcessHead, GaussianProcessTensors
from engine.learning.heads.kinds import GAUSSIAN_PROCESS, HeadKind
from engine.learning.heads.members import (
    LOWER_FIDELITY,
    TARGET_FIDELITY,
    Members,
    SeparateFunctions,
    TrainingData,
    fidelity_beneath,
)
from engine.learning.heads.multifidelity import MultiFidelityFunctions, MultiFidelityHead, evaluate_all, predict_all
from engine.learning.heads.sparse_members import EXACT_ROWS, SparseMembers

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.networks.graph_data import Crystals


_SAME = 0.01
"""Distance of standardised embeddings below which two crystals are one: single precision moves an embedding by up to
0.0003, two relaxations of a compound lie 0.1 apart."""

_MATRICES = 10
"""Square matrices of double precision that exact training has in memory at once, by measurement."""


@dataclass(frozen=True, eq=False)
class GaussianProcessMembers(Members[GaussianProcessHead]):
    """Exact Gaussian processes on embeddings.

    Those that score the pool are one process fitted to all labels, each without the labels of its fold: they share
    their kernel. Those that held rows out were fitted without them, hyperparameters and scalers included, and gave the
    metrics and the calibration.
    """

    kind: ClassVar[HeadKind] = GAUSSIAN_PROCESS

    @classmethod
    def of_labels(cls, n_labels: int) -> type[Members[Any]]:
        """See :meth:`Members.of_labels`; sparse ones above :data:`EXACT_ROWS`."""
        return cls if n_labels <= EXACT_ROWS else SparseMembers

    @classmethod
    def needed_bytes(cls, data: TrainingData) -> int:
        """See :meth:`Members.needed_bytes`."""
        return _MATRICES * 8 * len(data.values) ** 2

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> type[Members[Any]]:
        """See :meth:`Members.of_tensors`."""
        return SparseMembers if SparseMembers.owns(tensors) else cls

    @classmethod
    def fit_heads(cls, data: TrainingData) -> Iterable[GaussianProcessHead]:
        """See :meth:`Members.fit_heads`."""
        groups, statistics = data.backbone.groups, data.backbone.column_statistics
        for rows, seed in zip(data.jobs, data.seeds, strict=True):
            yield GaussianProcessHead.fit(data.embeddings[rows], data.values[rows], groups, seed, statistics)

    @classmethod
    def predict_head(
        cls, head: GaussianProcessHead, crystals: Crystals, number: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :meth:`Members.predict_head`."""
        return head.predict(crystals.embeddings[rows])

    def scoring(self, data: TrainingData) -> GaussianProcessMembers:
        """One process of all labels, as many times without a fold."""
        backbone = data.backbone
        whole = GaussianProcessHead.fit(
            data.embeddings, data.values, backbone.groups, data.seed, backbone.column_statistics
        )
        return GaussianProcessMembers(tuple(whole.keeping(rows) for rows in data.jobs))

    def predict(
        self, crystals: Crystals, fidelity: str = TARGET_FIDELITY
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of members made by :meth:`scoring`, with one kernel for all of them."""
        return self._together(crystals.embeddings)

    def functions(self, n_draws: int, seed: int) -> SeparateFunctions:
        """See :meth:`Members.functions`."""
        each = math.ceil(n_draws / len(self.heads))
        return SeparateFunctions([head.functions(each, seed * 1009 + k) for k, head in enumerate(self.heads)], each)

    def to_tensors(self) -> list[dict[str, Tensor]]:
        """See :meth:`Members.to_tensors`; the first has the labels of all, each the rows that it keeps.

        Members that do not share their kernel (those that held rows out) have their tensors each.
        """
        own = [head.tensors.to_tensors() for head in self.heads]
        if any(head.tensors.rows is None for head in self.heads):
            return own
        shared = union(self.heads).tensors.to_tensors()
        return [{**(shared if k == 0 else {}), "rows": each["rows"]} for k, each in enumerate(own)]

    @classmethod
    def from_tensors(
        cls, tensors: Sequence[Mapping[str, Tensor]], backbone: AnyBackbone, lower: MultiFidelityHead | None
    ) -> GaussianProcessMembers:
        """See :meth:`Members.from_tensors`; reads the layout of 0.1.0 too, where each member had all its tensors."""
        if all("x" in each for each in tensors):
            return cls(tuple(GaussianProcessHead(GaussianProcessTensors.from_tensors(t)) for t in tensors))
        shared = {name: tensor for name, tensor in tensors[0].items() if name != "rows"}
        whole = GaussianProcessHead(GaussianProcessTensors.from_tensors(shared))
        return cls(tuple(whole.keeping(each["rows"].numpy()) for each in tensors))

    @classmethod
    def above_lower_fidelity(cls) -> type[MultiFidelityMembers]:
        """See :meth:`Members.above_lower_fidelity`."""
        return MultiFidelityMembers

    def without(self, keys: Sequence[str], embeddings: NDArray[np.float32]) -> GaussianProcessMembers:
        """See :meth:`Members.without`; what was fitted stays."""
        whole = union(self.heads)
        t, rows = whole.tensors, whole.standardise(embeddings)
        kept = torch.cat(
            [
                (torch.cdist(part, rows, compute_mode="donot_use_mm_for_euclid_dist") > _SAME).all(dim=1)
                for part in t.x.split(BLOCK)
            ]
        )
        numbers = torch.cumsum(kept, 0) - 1
        left = replace(t, x=t.x[kept], target=t.target[kept], row_noise=t.row_noise[kept], rows=None)
        keep = [numbers[own[kept[own]]].numpy() for own in map(kept_rows, self.heads)]
        return GaussianProcessMembers(tuple(GaussianProcessHead(left).keeping(own) for own in keep))

    @cached_property
    def process(self) -> MultiFidelityHead:
        """See :attr:`Members.process`."""
        return MultiFidelityHead.of(union(self.heads), LOWER_FIDELITY)

    @cached_property
    def _together(self) -> FoldPredictor:
        return FoldPredictor(self.heads)


@dataclass(frozen=True, eq=False)
class MultiFidelityMembers(Members[MultiFidelityHead]):
    """Gaussian processes that all stand on one process of a lower fidelity, each with its own labels on top."""

    kind: ClassVar[HeadKind] = HeadKind(
        "multifidelity", "Gaussian processes on top of a lower fidelity", is_stacked=True, has_process=True
    )

    @classmethod
    def needed_bytes(cls, data: TrainingData) -> int:
        """See :meth:`Members.needed_bytes`; every member has matrices of its labels, and with those beneath."""
        n, beneath, members = len(data.values), len(_known(data.lower).tensors.x), len(data.seeds)
        return 8 * n * beneath + members * (20 * n * beneath + 32 * n * n)

    @classmethod
    def fit_heads(cls, data: TrainingData) -> Iterable[MultiFidelityHead]:
        """See :meth:`Members.fit_heads`."""
        lower, expected = _known(data.lower), SAME_PROPERTY if data.same_property else OTHER_PROPERTY
        for rows, seed in zip(data.jobs, data.seeds, strict=True):
            yield lower.above(
                TARGET_FIDELITY, data.embeddings[rows], data.values[rows], seed, data.sight[rows], expected
            )

    @classmethod
    def predict_head(
        cls, head: MultiFidelityHead, crystals: Crystals, number: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :meth:`Members.predict_head`."""
        return head.predict(crystals.embeddings[rows])

    def predict(
        self, crystals: Crystals, fidelity: str = TARGET_FIDELITY
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Of either fidelity; the process beneath is asked once."""
        return predict_all(self.heads, crystals.embeddings, fidelity)

    def functions(self, n_draws: int, seed: int) -> FidelityFunctions:
        """See :meth:`Members.functions`."""
        each = math.ceil(n_draws / len(self.heads))
        return FidelityFunctions([head.functions(each, seed * 1009 + k) for k, head in enumerate(self.heads)], each)

    def to_tensors(self) -> list[dict[str, Tensor]]:
        """What each has beyond the process beneath, which is stored with the model of the lower fidelity."""
        return [head.upper(_known(head.built_on)) for head in self.heads]

    @classmethod
    def from_tensors(
        cls, tensors: Sequence[Mapping[str, Tensor]], backbone: AnyBackbone, lower: MultiFidelityHead | None
    ) -> MultiFidelityMembers:
        """See :meth:`Members.from_tensors`."""
        return cls(tuple(_known(lower).with_upper(t, TARGET_FIDELITY) for t in tensors))

    def without(self, keys: Sequence[str], embeddings: NDArray[np.float32]) -> MultiFidelityMembers:
        """See :meth:`Members.without`; labels of lower fidelities stay."""
        return MultiFidelityMembers(tuple(_without(head, embeddings) for head in self.heads))

    @cached_property
    def process(self) -> MultiFidelityHead:
        """See :attr:`Members.process`; the labels of all members on the process that they stand on, fitted anew."""
        lower = _known(self.heads[0].built_on)
        parts = [_top_labels(head) for head in self.heads]
        x, values = parts[0]
        for rows, own in parts[1:]:
            new = (torch.cdist(rows, x, compute_mode="donot_use_mm_for_euclid_dist") > 0).all(dim=1)
            x, values = torch.cat([x, rows[new]]), torch.cat([values, own[new]])
        raw = (x * lower.tensors.scale + lower.tensors.centre).numpy()
        process = lower.above(LOWER_FIDELITY, raw, values.numpy(), 0)
        levels = len(process.fidelities)
        return replace(process, fidelities=tuple(fidelity_beneath(levels - k) for k in range(levels)))

    def information_ratio(self, embeddings: NDArray[np.float32], fidelity: str = LOWER_FIDELITY) -> NDArray[np.float64]:
        """Mean over the members."""
        fidelities = (fidelity, TARGET_FIDELITY)
        falls = [[head.variance_reduction(embeddings, name) for name in fidelities] for head in self.heads]
        lower, own = np.mean(falls, axis=0)
        return np.asarray(lower / np.maximum(own, 1e-300))


@dataclass(frozen=True, eq=False)
class FidelityFunctions:
    """See :class:`MemberFunctions`; ``each`` functions of every member, at either fidelity."""

    parts: Sequence[MultiFidelityFunctions]
    each: int

    @property
    def n_draws(self) -> int:
        """Number D of functions."""
        return self.each * len(self.parts)

    def __call__(
        self, embeddings: NDArray[np.float32], fidelity: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :class:`MemberFunctions`."""
        return evaluate_all(self.parts, embeddings, fidelity)


def _top_labels(head: MultiFidelityHead) -> tuple[Tensor, Tensor]:
    """Standardised rows (n x d) and values (n) of the labels of the highest fidelity."""
    t, top = head.tensors, len(head.fidelities) - 1
    own = t.level == top
    return t.x[own], t.target[own] * t.std + t.mean[top]


def _without(head: MultiFidelityHead, embeddings: NDArray[np.float32]) -> MultiFidelityHead:
    """The process without its labels of the highest fidelity at these embeddings; what was fitted stays."""
    lower, t = _known(head.built_on), head.tensors
    rows = (torch.as_tensor(np.asarray(embeddings, dtype=np.float64)) - t.centre) / t.scale
    upper = head.upper(lower)
    kept = (torch.cdist(upper["x"], rows, compute_mode="donot_use_mm_for_euclid_dist") > _SAME).all(dim=1)
    upper |= {name: upper[name][kept] for name in ("x", "target", "row_noise", "level")}
    return lower.with_upper(upper, TARGET_FIDELITY)


def _known(lower: MultiFidelityHead | None) -> MultiFidelityHead:
    if lower is None:
        raise TrainingError("these members stand on no lower fidelity; train them with one")
    return lower
