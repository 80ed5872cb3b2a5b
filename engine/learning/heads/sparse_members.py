"""Sparse Gaussian processes as members of an ensemble: for more labels than an exact process can keep."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch

from engine.learning.heads.gp import FIT_ROWS, GaussianProcessHead, GaussianProcessTensors
from engine.learning.heads.inducing import greedy_rows
from engine.learning.heads.kinds import GAUSSIAN_PROCESS, HeadKind
from engine.learning.heads.members import LOWER_FIDELITY, TARGET_FIDELITY, Members, SeparateFunctions, TrainingData
from engine.learning.heads.sparse import (
    LabelTensors,
    MemberTensors,
    PosteriorTensors,
    SparseHead,
    SparsePrior,
    SparseProcess,
    label_keys,
    predict_together,
)
from engine.learning.heads.sparse_multifidelity import SparseLowerFidelity

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.heads.multifidelity import MultiFidelityHead
    from engine.learning.networks.graph_data import Crystals

EXACT_ROWS = 6000
"""Up to this many labels Gaussian processes are exact."""
INDUCING = 4000
"""Inducing points of a sparse process."""
_MATRICES = 10
"""Square matrices of double precision that training has in memory at once besides the sums of each fold."""
_CANDIDATES = 1.5
"""Inducing points are chosen among this many times as many training rows."""


@dataclass(frozen=True, eq=False)
class SparseMembers(Members[SparseHead]):
    """Sparse Gaussian processes on embeddings that share kernel and inducing points.

    Hyperparameters are fitted once, on a random choice of the labels, and inducing points are chosen without labels;
    each member then lacks the labels of its fold, so that those that hold rows out also score the pool.
    """

    kind: ClassVar[HeadKind] = GAUSSIAN_PROCESS
    variant: ClassVar[str] = "sparse"

    @classmethod
    def needed_bytes(cls, data: TrainingData) -> int:
        """See :meth:`Members.needed_bytes`: matrices of the inducing points, one a fold and some at once."""
        return 8 * INDUCING**2 * (len(data.seeds) + _MATRICES)

    @classmethod
    def owns(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these are the tensors of a first member of this kind."""
        return "whitening" in tensors

    @classmethod
    def fit_heads(cls, data: TrainingData) -> Iterable[SparseHead]:
        """See :meth:`Members.fit_heads`."""
        prior = fit_prior(data)
        parts, folds = [], [np.flatnonzero(data.folds == k) for k in range(len(data.seeds))]
        for number, rows in enumerate(folds, start=1):
            parts.append(prior.evidence(data.embeddings[rows], data.values[rows]))
            data.progress(f"sparse Gaussian process: read fold {number} of {len(folds)}")
        total = sum(parts[1:], parts[0])
        noise = prior.tensors.noise.repeat(len(data.values))
        for k, rows in enumerate(folds):
            change, noise[rows] = prior.correction(data.embeddings[rows], data.values[rows], total - parts[k])
            parts[k] += change
        doubtful = torch.count_nonzero(noise > prior.tensors.noise)
        data.progress(f"{len(prior.tensors.x):,} inducing points; {doubtful:,} labels contradict the others")
        total = sum(parts[1:], parts[0])
        labels = LabelTensors(label_keys(data.crystals.keys), prior.standardised_target(data.values), noise)
        yield from prior.members(prior.given(total, labels), total, parts)

    @classmethod
    def predict_head(
        cls, head: SparseHead, crystals: Crystals, number: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :meth:`Members.predict_head`."""
        return head.predict(crystals.embeddings[rows])

    def predict(
        self, crystals: Crystals, fidelity: str = TARGET_FIDELITY
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """With one kernel for all of them."""
        return predict_together(self.heads, crystals.embeddings)

    def functions(self, n_draws: int, seed: int) -> SeparateFunctions:
        """See :meth:`Members.functions`."""
        each = math.ceil(n_draws / len(self.heads))
        return SeparateFunctions([head.functions(each, seed * 1009 + k) for k, head in enumerate(self.heads)], each)

    def to_tensors(self) -> list[dict[str, Tensor]]:
        """See :meth:`Members.to_tensors`; the first has what all share."""
        process, own = self.heads[0].process, [head.own.to_tensors() for head in self.heads]
        shared = (process.prior.tensors, process.posterior, process.labels)
        return [{name: t for part in shared for name, t in part.to_tensors().items()} | own[0], *own[1:]]

    @classmethod
    def from_tensors(
        cls, tensors: Sequence[Mapping[str, Tensor]], backbone: AnyBackbone, lower: MultiFidelityHead | None
    ) -> SparseMembers:
        """See :meth:`Members.from_tensors`."""
        prior = SparsePrior(GaussianProcessHead(GaussianProcessTensors.from_tensors(tensors[0])))
        posterior, labels = PosteriorTensors.from_tensors(tensors[0]), LabelTensors.from_tensors(tensors[0])
        process = SparseProcess(prior, posterior, labels)
        return cls(tuple(SparseHead(process, MemberTensors.from_tensors(each)) for each in tensors))

    def without(self, keys: Sequence[str], embeddings: NDArray[np.float32]) -> SparseMembers:
        """See :meth:`Members.without`; the mean of each member changes as that of the process with all labels does."""
        before = self.heads[0].process
        process = before.without(label_keys(keys), embeddings)
        change = process.weights - before.weights
        return SparseMembers(
            tuple(SparseHead(process, replace(head.own, weights=head.own.weights + change)) for head in self.heads)
        )

    @cached_property
    def process(self) -> MultiFidelityHead:
        """See :attr:`Members.process`."""
        return SparseLowerFidelity.of_sparse(self.heads[0].process, LOWER_FIDELITY)


def fit_prior(data: TrainingData) -> SparsePrior:
    """Kernel, standardisation and noise fitted on some of the labels, and inducing points chosen among all rows."""
    order = np.random.default_rng(data.seed).permutation(len(data.values))
    some, backbone = order[:FIT_ROWS], data.backbone
    fitted = GaussianProcessHead.fit(
        data.embeddings[some], data.values[some], backbone.groups, data.seed, backbone.column_statistics
    )
    candidates = fitted.standardise(data.embeddings[np.sort(order[: round(_CANDIDATES * INDUCING)])])
    return SparsePrior.of(fitted, candidates[greedy_rows(fitted.kernel, candidates, INDUCING)])
