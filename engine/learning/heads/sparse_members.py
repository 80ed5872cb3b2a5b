"""Sparse Gaussian processes as members of an ensemble: for more labels than an exact process can keep."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from engine.exceptions import TrainingError
from engine.learning.heads.gp import FIT_ROWS, GaussianProcessHead
from engine.learning.heads.inducing import greedy_rows
from engine.learning.heads.members import LOWER_FIDELITY, TARGET_FIDELITY, Members, TrainingData
from engine.learning.heads.sparse import (
    PosteriorTensors,
    SharedTensors,
    SparseFunctions,
    SparseHead,
    SparseProcess,
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
INDUCING = 2000
"""Inducing points of a sparse process."""
_ALL = "all_"
"""Before the names of the tensors that all labels give."""
_CANDIDATES = 4
"""Inducing points are chosen among this many times as many training rows."""


@dataclass(frozen=True, eq=False)
class SparseMembers(Members[SparseHead]):
    """Sparse Gaussian processes on embeddings that share kernel and inducing points.

    Hyperparameters are fitted once, on a random choice of the labels, and inducing points are chosen without labels;
    each member then lacks the labels of its fold, so that those that hold rows out also score the pool.
    """

    kind: ClassVar[str] = "gp"
    is_stacked: ClassVar[bool] = True
    has_process: ClassVar[bool] = True

    @classmethod
    def needed_bytes(cls, data: TrainingData) -> int:
        """See :meth:`Members.needed_bytes`: sums of each fold, and what the candidates for inducing points need."""
        return 8 * INDUCING**2 * (2 * len(data.seeds) + 6) + 4 * _CANDIDATES * INDUCING**2

    @classmethod
    def owns(cls, tensors: Mapping[str, Tensor]) -> bool:
        """Whether these are the tensors of a first member of this kind."""
        return "inducing" in tensors

    @classmethod
    def fit_heads(cls, data: TrainingData) -> Iterable[SparseHead]:
        """See :meth:`Members.fit_heads`."""
        process = fit_process(data)
        parts, folds = [], [np.flatnonzero(data.folds == k) for k in range(len(data.seeds))]
        for number, rows in enumerate(folds, start=1):
            parts.append(process.evidence(data.embeddings[rows], data.values[rows]))
            data.progress(f"sparse Gaussian process: read fold {number} of {len(folds)}")
        total = sum(parts[1:], parts[0])
        doubtful = 0
        for k, rows in enumerate(folds):
            change, count = process.correction(data.embeddings[rows], data.values[rows], total - parts[k])
            parts[k], doubtful = parts[k] + change, doubtful + count
        data.progress(f"{len(process.tensors.inducing)} inducing points; {doubtful} labels contradict the others")
        total = sum(parts[1:], parts[0])
        process = replace(process, whole=process.posterior(total))
        for part in parts:
            yield SparseHead(process, process.posterior(total - part))

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

    def functions(self, n_draws: int, seed: int) -> SparseMemberFunctions:
        """See :meth:`Members.functions`."""
        each = math.ceil(n_draws / len(self.heads))
        return SparseMemberFunctions([head.functions(each, seed * 1009 + k) for k, head in enumerate(self.heads)], each)

    def to_tensors(self) -> list[dict[str, Tensor]]:
        """See :meth:`Members.to_tensors`; the first has what all share."""
        own = [head.posterior.to_tensors() for head in self.heads]
        shared, whole = self.heads[0].process.tensors, self._whole
        return [
            {**shared.to_tensors(), **{_ALL + name: t for name, t in whole.to_tensors().items()}, **own[0]},
            *own[1:],
        ]

    @classmethod
    def from_tensors(
        cls, tensors: Sequence[Mapping[str, Tensor]], backbone: AnyBackbone, lower: MultiFidelityHead | None
    ) -> SparseMembers:
        """See :meth:`Members.from_tensors`."""
        whole = {name.removeprefix(_ALL): t for name, t in tensors[0].items() if name.startswith(_ALL)}
        process = SparseProcess(SharedTensors.from_tensors(tensors[0]), PosteriorTensors.from_tensors(whole))
        return cls(tuple(SparseHead(process, PosteriorTensors.from_tensors(each)) for each in tensors))

    def without(self, embeddings: NDArray[np.float32]) -> SparseMembers:
        """Impossible: a sparse process has no labels, only sums over them."""
        raise TrainingError(
            f"{len(embeddings):,} crystals are labelled both here and in the model of the lower fidelity, which is a "
            f"sparse one (more than {EXACT_ROWS:,} labels) and cannot forget them; train that model again without "
            f"them, or on at most {EXACT_ROWS:,} labels"
        )

    @cached_property
    def process(self) -> MultiFidelityHead:
        """See :attr:`Members.process`."""
        return SparseLowerFidelity.of_sparse(self.heads[0].process.tensors, self._whole, LOWER_FIDELITY)

    @property
    def _whole(self) -> PosteriorTensors:
        whole = self.heads[0].process.whole
        if whole is None:
            raise TrainingError("these members were fitted apart; train them together to stand on them")
        return whole


@dataclass(frozen=True, eq=False)
class SparseMemberFunctions:
    """See :class:`MemberFunctions`; ``each`` functions of every member."""

    parts: Sequence[SparseFunctions]
    each: int

    @property
    def n_draws(self) -> int:
        """Number D of functions."""
        return self.each * len(self.parts)

    def __call__(
        self, embeddings: NDArray[np.float32], fidelity: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """See :class:`MemberFunctions`."""
        means, drawn = zip(*(functions(embeddings) for functions in self.parts), strict=True)
        return np.stack(means), np.concatenate(drawn)


def fit_process(data: TrainingData) -> SparseProcess:
    """Kernel, standardisation and noise fitted on some of the labels, and inducing points chosen among all rows."""
    order = np.random.default_rng(data.seed).permutation(len(data.values))
    some, backbone = order[:FIT_ROWS], data.backbone
    fitted = GaussianProcessHead.fit(
        data.embeddings[some], data.values[some], backbone.groups, data.seed, backbone.column_statistics
    )
    candidates = fitted.standardise(data.embeddings[np.sort(order[: _CANDIDATES * INDUCING])])
    inducing = candidates[greedy_rows(fitted.kernel, candidates, INDUCING)]
    names = ("centre", "scale", "lengthscale", "outputscale", "noise", "mean", "std", "columns")
    return SparseProcess(
        SharedTensors(**{name: vars(fitted.tensors)[name] for name in names}, inducing=inducing.contiguous())
    )
