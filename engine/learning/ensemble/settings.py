"""What decides an ensemble besides its backbone and its labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from engine.exceptions import TrainingError
from engine.learning.heads.kinds import head_kind, heads_with_networks
from engine.learning.heads.registry import members_class
from engine.learning.networks import strategies
from engine.learning.networks.finetune import fine_tuning, require_trainable
from engine.learning.networks.losses import Loss
from engine.learning.networks.schedule import FineTuning, Schedule

if TYPE_CHECKING:
    from engine.learning.backbones.stack import AnyBackbone
    from engine.learning.heads.members import AnyMembers

Scale = Literal["log10", "linear"]
Say = Callable[[str], None]

FROZEN, AUTO = "frozen", "auto"
MIN_ENSEMBLE_LABELS = 8
"""With fewer labels a model knows less than a spread-out first batch would tell."""
NETWORK_LABELS = 300
"""``auto`` trains networks from this many labels on; with fewer they always trailed the Gaussian process."""
TREE_LABELS = 3000
"""Trees are tried up to this many labels (11 s at 3,000). Band gaps still ask for most of the mean at 1,500, AGL kappa
for none from 300 on."""


@dataclass(frozen=True)
class EnsembleSettings:
    """All that decides an ensemble besides backbone, labels and code version."""

    strategy: str = FROZEN
    """``frozen``: heads on cached embeddings; ``auto``: with networks (``full``) where there are labels enough; or what
    networks train, see :mod:`engine.learning.networks.strategies` (``full``, ``last``, ``head``, ``blocks:k``, ...)."""
    head: str = "gp"
    """``gp`` and ``mlp`` read embeddings, and a ``gp`` is stacked with trees and with networks where any are trained
    (sparse above :data:`engine.learning.heads.sparse_members.EXACT_ROWS` labels);
    ``network``: the networks' own heads; or another of :data:`engine.learning.heads.kinds.KINDS`."""
    members: int = 5
    seed: int = 0
    schedule: Schedule = field(default_factory=fine_tuning)
    """Of fine-tuned networks."""
    loss: Loss = "l1"
    """Of fine-tuned networks."""
    trees: bool = True
    """Whether a ``gp`` is stacked with extra-trees, up to :data:`TREE_LABELS` labels; never above a lower fidelity,
    where they found 0.87 of the lowest 5 % of 238 compounds instead of 0.96."""

    def __post_init__(self) -> None:
        """Refuse unknown words, what does not go together, and one member, which could not hold rows out."""
        if self.strategy not in (FROZEN, AUTO):
            strategies.parse(self.strategy)
        kind = head_kind(self.head)
        if kind.is_network and self.strategy == FROZEN:
            raise TrainingError(
                f"head {self.head!r} needs a strategy that trains networks, not {self.strategy!r}; try 'full'"
            )
        if self.networks and not (kind.is_network or kind.is_stacked):
            raise TrainingError(
                f"head {self.head!r} reads cached embeddings; strategy {self.strategy!r} needs {heads_with_networks()}"
            )
        if self.members < 2:
            raise TrainingError(f"an ensemble needs at least 2 members to hold rows out, got {self.members}")

    @property
    def networks(self) -> bool:
        """Whether networks are fine-tuned."""
        return self.strategy not in (FROZEN, AUTO)

    @property
    def tuning(self) -> FineTuning | None:
        """How networks are fine-tuned, where any are."""
        if not self.networks:
            return None
        return FineTuning(self.schedule, self.seed, strategies.parse(self.strategy), self.loss)

    @property
    def members_class(self) -> type[AnyMembers]:
        """Kind of the members."""
        return members_class(self.head)

    def resolved(self, n_labels: int, backbone: AnyBackbone) -> EnsembleSettings:
        """The settings with the strategy that ``auto`` stands for; a potential takes hours to fine-tune.

        Raises
        ------
        TrainingError
            If networks are to be trained, and the backbone gives embeddings only.
        """
        kind = head_kind(self.head)
        pays = n_labels >= NETWORK_LABELS and not backbone.is_potential
        networks = kind.is_network or (kind.is_stacked and pays)
        chosen = "full" if networks else FROZEN
        found = replace(self, strategy=chosen) if self.strategy == AUTO else self
        if found.networks:
            require_trainable(backbone)
        return found

    @property
    def member_seeds(self) -> list[int]:
        """Seed of each member."""
        return [self.seed * 1000 + k for k in range(self.members)]


def minimum_labels(members: int) -> int:
    """Fewest labels that this many members can be trained on: one to hold out each, and never fewer than 8."""
    return max(MIN_ENSEMBLE_LABELS, members)
