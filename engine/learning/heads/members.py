"""What every kind of head is to an ensemble: members that each left a fold of the labels out.

A new head is one class: it derives from :class:`Members`, and :func:`engine.learning.heads.registry.register` makes the
name of its ``kind`` a value of the setting ``head``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import numpy as np

from engine.exceptions import TrainingError
from engine.learning.heads.kinds import HeadKind, heads_with_process
from engine.learning.networks.committee import train_networks

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from engine.execution import Run
    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.heads.multifidelity import MultiFidelityHead
    from engine.learning.networks.finetune import NetworkHead
    from engine.learning.networks.graph_data import Crystals, GraphData
    from engine.learning.networks.schedule import FineTuning

Head = TypeVar("Head")

TARGET_FIDELITY, LOWER_FIDELITY = "wanted", "cheaper"
"""The fidelity that members learn, and the one beneath it, where they stand on one."""


def no_process() -> TrainingError:
    """Error for members that do not learn on top of a lower fidelity, or that nothing can be learned on top of."""
    return TrainingError(
        f"a lower fidelity is learned from by Gaussian processes only; both models need head {heads_with_process()}"
    )


def fidelity_beneath(steps: int) -> str:
    """Name of the fidelity so many steps beneath the one that members learn, which is 0."""
    return TARGET_FIDELITY if not steps else LOWER_FIDELITY + (f" {steps}" if steps > 1 else "")


@dataclass(frozen=True, eq=False)
class TrainingData:
    """n labelled crystals in K folds, and how members are trained on them: member k without fold k."""

    crystals: Crystals
    """With what networks learn of them: the target first, then auxiliaries."""
    values: NDArray[np.float64]
    """Labels, n, in learned units."""
    folds: NDArray[np.int64]
    """Number of each crystal's fold, n."""
    seed: int
    """Of what is fitted to all labels."""
    seeds: Sequence[int]
    """Of each member, K."""
    tuning: FineTuning | None
    """How networks are fine-tuned; none are if ``None``."""
    lower: MultiFidelityHead | None
    """Process of a lower fidelity that members stand on, with all its labels."""
    progress: Callable[[str], None]
    same_property: bool = False
    """Whether ``lower`` is of the labels' own property, so that little is expected to differ."""
    workers: int = 1
    run: Run | None = None
    """Where networks train: in as many processes, or where ``run`` says."""

    @property
    def jobs(self) -> list[NDArray[np.int64]]:
        """Training rows of each member."""
        return [np.flatnonzero(self.folds != k) for k in range(self.folds.max() + 1)]

    @property
    def embeddings(self) -> NDArray[np.float32]:
        """Of the crystals, n x d."""
        return self.crystals.embeddings

    @property
    def graphs(self) -> list[GraphData]:
        """Of the crystals, for the networks of each backbone."""
        return self.crystals.graphs

    @property
    def backbone(self) -> AnyBackbone:
        """What the crystals are embedded by."""
        return self.crystals.featuriser.backbone

    @cached_property
    def sight(self) -> Tensor:
        """What the process of the lower fidelity says of the crystals, n x m; see :meth:`MultiFidelityHead.sees`."""
        if self.lower is None:
            raise TrainingError("there is no lower fidelity to stand on; train a model of it first")
        return self.lower.sees(self.embeddings)

    @cached_property
    def networks(self) -> tuple[NetworkHead, ...]:
        """A network for each member, trained without its fold."""
        return self.train_networks(self.jobs, "without its fold")

    def train_networks(self, rows: Sequence[NDArray[np.int64]], which: str) -> tuple[NetworkHead, ...]:
        """One network a member, trained on its ``rows``; ``which`` says in progress messages which these are."""
        if self.tuning is None:
            return ()
        return train_networks(
            self.backbone.trained,
            self.graphs,
            list(zip(rows, self.seeds, strict=True)),
            self.tuning,
            which=which,
            progress=self.progress,
            workers=self.workers,
            run=self.run,
        )


class MemberFunctions(Protocol):
    """D functions drawn from the members' posteriors, the same number from each of K members."""

    @property
    def n_draws(self) -> int:
        """Number D of functions."""

    def __call__(
        self, embeddings: NDArray[np.float32], fidelity: str
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Means of the members' posteriors (K x N) and all functions' values (D x N) at N embeddings."""


@dataclass(frozen=True, eq=False)
class SeparateFunctions:
    """See :class:`MemberFunctions`; ``each`` functions of every member, drawn apart from the others'."""

    parts: Sequence[Callable[[NDArray[np.float32]], tuple[NDArray[np.float64], NDArray[np.float64]]]]
    """Of each member: its mean (N) and its functions' values (``each`` x N) at N embeddings."""
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


@dataclass(frozen=True, eq=False)
class Members(ABC, Generic[Head]):
    """K heads of one kind."""

    kind: ClassVar[HeadKind]
    """Its name is the value of the setting ``head``."""
    variant: ClassVar[str] = ""
    """Word before it in descriptions, where there are several kinds of one value."""
    heads: tuple[Head, ...]

    @classmethod
    def of_labels(cls, n_labels: int) -> type[Members[Any]]:
        """Kind of members that learns this many labels."""
        return cls

    @classmethod
    def needed_bytes(cls, data: TrainingData) -> int:
        """Memory that training on ``data`` takes beside the data, roughly; 0 where it does not grow with the rows."""
        return 0

    @classmethod
    def of_tensors(cls, tensors: Mapping[str, Tensor]) -> type[Members[Any]]:
        """Kind of members whose first has these tensors."""
        return cls

    @classmethod
    @abstractmethod
    def fit_heads(cls, data: TrainingData) -> Iterable[Head]:
        """Fit a head on each of ``data.jobs``, with its own of ``data.seeds``, in order."""

    @classmethod
    @abstractmethod
    def predict_head(
        cls, head: Head, crystals: Crystals, number: int, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Mean and standard deviation of a new label of some ``rows`` of crystals, by the head with this number.

        In units of the labels; ``None`` for the standard deviation of a head that knows none.
        """

    @abstractmethod
    def to_tensors(self) -> list[dict[str, Tensor]]:
        """Tensors of each member's file."""

    @classmethod
    @abstractmethod
    def from_tensors(
        cls, tensors: Sequence[Mapping[str, Tensor]], backbone: AnyBackbone, lower: MultiFidelityHead | None
    ) -> Members[Head]:
        """Inverse of :meth:`to_tensors`, on a backbone and perhaps above the process of a lower fidelity."""

    def predict(
        self, crystals: Crystals, fidelity: str = TARGET_FIDELITY
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Mean and standard deviation of a new label of N crystals, K x N each, as :meth:`predict_head`."""
        rows = np.arange(len(crystals))
        found = [self.predict_head(head, crystals, k, rows) for k, head in enumerate(self.heads)]
        spreads = [std for _, std in found if std is not None]
        mean = np.stack([mean for mean, _ in found])
        return mean, np.stack(spreads) if len(spreads) == len(found) else None

    def functions(self, n_draws: int, seed: int) -> MemberFunctions | None:
        """At least ``n_draws`` functions from the members' posteriors; ``None`` for heads without a posterior."""
        return None

    def scoring(self, data: TrainingData) -> Members[Head]:
        """Members that score pools, where they are not those that held rows out."""
        return self

    @classmethod
    def above_lower_fidelity(cls) -> type[Members[Any]]:
        """Kind of members that learn what labels add to the process of a lower fidelity."""
        raise no_process()

    def without(self, keys: Sequence[str], embeddings: NDArray[np.float32]) -> Members[Head]:
        """Members that do not know the labels of the crystals with these content hashes (N) and embeddings (N x d)."""
        raise no_process()

    @property
    def process(self) -> MultiFidelityHead:
        """One process with the labels of all members, for a higher fidelity to stand on."""
        raise no_process()

    @property
    def network(self) -> NetworkHead | None:
        """Network that another training may start from."""
        return None

    def information_ratio(self, embeddings: NDArray[np.float32], fidelity: str = LOWER_FIDELITY) -> NDArray[np.float64]:
        """Variance that a label of a lower fidelity would take, in units of what one's own would take, N."""
        raise TrainingError("these members stand on no lower fidelity; train them with one")


AnyMembers = Members[Any]
