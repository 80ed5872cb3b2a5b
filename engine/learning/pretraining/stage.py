"""What a stage and a chain of stages are told: data, start, properties, strategy, schedule."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from engine.exceptions import TrainingError
from engine.learning.networks import strategies
from engine.learning.networks.losses import Balance, Loss, check_loss
from engine.learning.networks.schedule import FineTuning, Schedule
from engine.learning.pretraining.distillation import check_teachers
from engine.learning.pretraining.scratch import scratch_kind
from engine.learning.pretraining.tasks import DataSet, PropertyTask

MIN_PROPERTY_LABELS = 50
"""Fewest labels of a property that are worth a head, unless a stage says otherwise."""
_NAME = re.compile(r"\w[\w.+-]*")
PREVIOUS = "previous"

Keep = Literal["body", "trunk", "heads"]


@dataclass(frozen=True)
class Stage:
    """All that decides the outcome of a stage, besides the materials and the starting weights."""

    name: str = ""
    """In folders and messages; that of the data if not given."""
    data: str = "data"
    """Role of the data set, given by the caller."""
    tasks: tuple[PropertyTask, ...] = ()
    """Properties to learn; those of the data set if it names any."""
    fidelity: str = ""
    """Of the labels; others are refused where fidelities are known."""
    mix_fidelities: bool = False
    """Whether labels of several fidelities may stand for one property."""
    start: str = PREVIOUS
    """``previous`` (the stage before, or what the chain was given), ``scratch:NAME`` of :data:`SCRATCH`, the name of an
    earlier stage, a backbone's name or path, or a trained model's."""
    body: Mapping[str, Any] = field(default_factory=dict)
    """Sizes of a body from scratch, as its MatGL class takes them, in place of those of :data:`SCRATCH`."""
    strategy: str = "full"
    keep: Keep = "body"
    """How much of the start goes on: ``body``, with its ``trunk``, or with its ``heads`` too; ``last`` and ``frozen``
    always go on with the trunk, where there is one."""
    teachers: tuple[str, ...] = ()
    """Backbones or potentials by name or path whose columns it learns to give beside the properties, see
    :mod:`engine.learning.pretraining.distillation`; all columns together count as much as all properties."""
    loss: Loss = "huber"
    balance: Balance = "equal"
    schedule: Schedule = field(default_factory=lambda: Schedule(epochs=20, batch_size=64))
    held_out_fraction: float = 0.05
    """Chemical formulas never trained on; they give the table of the model card."""
    max_sites: int = 60
    min_labels: int = MIN_PROPERTY_LABELS
    """Fewest labels of a property that are worth a head."""
    trunk_size: int = 128
    """Of a new trunk."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse words that are not known, before anything expensive."""
        if not self.name:
            object.__setattr__(self, "name", self.data)
        if not _NAME.fullmatch(self.name):  # it becomes a folder
            raise TrainingError(f"stage name {self.name!r} holds more than letters, digits and . _ + -; change it")
        if not 0 <= self.held_out_fraction < 1:
            raise TrainingError(
                f"held_out_fraction of stage {self.name} must be in [0, 1), got {self.held_out_fraction}"
            )
        for name, value, lowest in (
            ("max_sites", self.max_sites, 1),
            ("min_labels", self.min_labels, 2),
            ("trunk_size", self.trunk_size, 1),
            ("seed", self.seed, 0),
        ):
            if value < lowest:
                raise TrainingError(f"{name} of stage {self.name} must be at least {lowest}, got {value}")
        strategy = strategies.parse(self.strategy)
        check_loss(self.loss, self.balance)
        check_teachers(self.name, self.teachers, strategy)
        if self.keep not in get_args(Keep):
            raise TrainingError(f"stage {self.name} keeps {self.keep!r}; choose one of {', '.join(get_args(Keep))}")
        if strategy.name == "head" and self.keep != "body":
            raise TrainingError(
                f"stage {self.name} keeps the {self.keep} but its strategy 'head' takes new ones; use 'frozen'"
            )
        if self.start.startswith("scratch"):
            scratch_kind(self.start)
            if strategy.keeps_body or self.keep != "body":
                raise TrainingError(
                    f"stage {self.name} starts from scratch, so that there is nothing to keep frozen or to go on with; "
                    "use strategy 'full' and keep 'body'"
                )

    @property
    def tuning(self) -> FineTuning:
        """How its network learns."""
        return FineTuning(self.schedule, self.seed, strategies.parse(self.strategy), self.loss, self.balance)

    def tasks_of(self, data: DataSet) -> tuple[PropertyTask, ...]:
        """Properties that it learns of a data set.

        Raises
        ------
        TrainingError
            If there are none, or labels of one are of several fidelities, or of another than the stage's.
        """
        tasks = data.tasks or self.tasks
        if not tasks:
            raise TrainingError(f"stage {self.name} learns no property; name one for its data {self.data!r}")
        for task in tasks:
            found = sorted(set(data.fidelities.get(task.name, ())))
            if len(found) > 1 and not self.mix_fidelities:
                raise TrainingError(
                    f"labels of {task.name!r} for stage {self.name} are of fidelities {', '.join(found)}; give each a "
                    "stage of its own, or set mix_fidelities if they may stand for each other"
                )
            if self.fidelity and found and self.fidelity not in found:
                raise TrainingError(
                    f"stage {self.name} learns labels of fidelity {self.fidelity}, those of {task.name!r} are "
                    f"{', '.join(found)}; give it other data or change its fidelity"
                )
        return tasks


@dataclass(frozen=True)
class Recipe:
    """A chain of stages."""

    name: str
    stages: tuple[Stage, ...]
    description: str = ""

    def __post_init__(self) -> None:
        """Refuse a recipe that makes nothing, or two stages that could not be told apart."""
        names = [stage.name for stage in self.stages]
        if not names:
            raise TrainingError(f"recipe {self.name} has no stage; give at least one")
        if len(set(names)) < len(names):
            raise TrainingError(f"stages of recipe {self.name} share a name ({', '.join(names)}); name each")
        for number_, stage in enumerate(self.stages):
            if stage.start in names[number_:]:
                raise TrainingError(
                    f"stage {stage.name} starts from stage {stage.start}, which does not come before it; change the "
                    "order, or the stage's name if a backbone of that name is meant"
                )

    @property
    def roles(self) -> tuple[str, ...]:
        """Data sets it needs, in order."""
        return tuple(dict.fromkeys(stage.data for stage in self.stages))

    def without(self, names: Sequence[str]) -> Recipe:
        """Leave out stages."""
        unknown = sorted(set(names) - {stage.name for stage in self.stages})
        if unknown:
            known = ", ".join(stage.name for stage in self.stages)
            raise TrainingError(f"recipe {self.name} has no stage {', '.join(unknown)}; there are {known}")
        left = tuple(stage for stage in self.stages if stage.name not in names)
        if orphans := [stage for stage in left if stage.start in names]:
            raise TrainingError(f"stage {orphans[0].name} starts from stage {orphans[0].start}, which is left out")
        return replace(self, stages=left)
