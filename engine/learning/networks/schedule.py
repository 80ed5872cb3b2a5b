"""How a network goes on learning from given weights: how long and how fast, which weights, and by which loss."""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.exceptions import TrainingError
from engine.learning.networks.losses import Balance, Loss, check_loss
from engine.learning.networks.strategies import FULL, Strategy


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a network learns."""

    epochs: int = 30
    learning_rate: float = 1e-3
    """Peak of the one-cycle schedule; 1e-3 is the sound default of Devi et al. 2024, 1e-5 fails."""
    batch_size: int = 64
    weight_decay: float = 1e-5
    clip_norm: float = 1.0
    validation_fraction: float = 0.1
    """Part of the training rows set aside to choose the epoch."""
    patience: int | None = None
    """Epochs without a better validation loss after which training stops; never early if not given."""
    bf16: bool = False
    """Passes in bfloat16 where torch deems it safe; worth it on a GPU."""

    def __post_init__(self) -> None:
        """Refuse what cannot be followed."""
        for name, count in (("epochs", self.epochs), ("batch_size", self.batch_size), ("patience", self.patience)):
            if count is not None and count < 1:
                raise TrainingError(f"{name} of a schedule must be at least 1, got {count}")
        for name, number in (("learning_rate", self.learning_rate), ("clip_norm", self.clip_norm)):
            if not number > 0:
                raise TrainingError(f"{name} of a schedule must be above 0, got {number}")
        if not 0 <= self.validation_fraction < 1:
            raise TrainingError(f"validation_fraction of a schedule must be in [0, 1), got {self.validation_fraction}")


@dataclass(frozen=True)
class FineTuning:
    """All that decides how a network learns, besides its starting weights and the data."""

    schedule: Schedule = field(default_factory=Schedule)
    seed: int = 0
    """Of the order of the training rows, the split of validation rows, new layers, and dropout."""
    strategy: Strategy = FULL
    """Which weights learn."""
    loss: Loss = "huber"
    """Of a label."""
    balance: Balance = "equal"
    """How several properties are weighed against each other."""

    def __post_init__(self) -> None:
        """Refuse losses that are not known or do not go together."""
        check_loss(self.loss, self.balance)
