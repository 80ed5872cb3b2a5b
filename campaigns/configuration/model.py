"""The ensemble of models that predicts the pool: ``[model]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from campaigns.configuration.section import Section
from engine.exceptions import TrainingError
from engine.learning.heads.kinds import GAUSSIAN_PROCESS, KINDS, described, head_kind, heads_with_networks

FROZEN = "frozen"
"""The engine's name of the strategy that trains no network."""


class ModelSection(Section):
    """The ensemble of models that predicts the pool."""

    backbone: str | tuple[str, ...] = Field(
        default="megnet-multiproperty",
        description="Pre-trained graph network that embeds the crystals: a shipped name, a folder, or a MatGL name "
        "(needs "
        "internet access); or family:model of a library of potentials (sevennet:7net-0, mace:medium-mpa-0, ...), which "
        'gives embeddings only; a list puts several side by side, e.g. ["megnet-multiproperty", "megnet-taught"]: '
        "smaller errors, slower rounds.",
    )
    potential_python: str = Field(
        default="",
        examples=["/path/to/environment/bin/python"],
        description="Python of another environment, in which the library of a potential among the backbones is "
        "installed; the potential runs in a process of it.",
    )
    networks: str = Field(
        default="none",
        description="Which networks are fine-tuned to the labels: none: only heads on cached embeddings are trained; "
        "full | last | head | blocks:K | embedding_frozen | gradual: these parts of the backbone too; auto: networks "
        "where there are enough labels.",
    )
    head: str = Field(default=GAUSSIAN_PROCESS.name, description=f"What predicts: {described()}.")
    trees: bool = Field(
        default=True,
        description="Whether extra-trees are stacked with a gp that has no lower fidelity, at the weight that held-out "
        "errors give.",
    )
    members: int = Field(default=5, ge=2, le=100, description="Members of the ensemble; each leaves out one fold.")
    epochs: int = Field(default=30, ge=1, description="Epochs of fine-tuned networks.")
    lower_fidelity: str = Field(
        default="",
        examples=["agl"],
        description="A lower fidelity that members learn on top of: a fidelity of labels, a shipped model "
        "(kappa-300K: first-principles kappa at 300 K), or a folder that `kappascout train` wrote; a model of the "
        "campaign's own property also ranks the pool while labels are too few.",
    )
    embeddings: Literal["float32", "float16"] = Field(
        default="float32",
        description="Precision on disk: float32 | float16; float16 takes half the space and changes predictions by "
        "0.01 %.",
    )
    intervals: Literal["adaptive", "gaussian", "conformal"] = Field(
        default="adaptive",
        description="90 % intervals: gaussian: 1.645 calibrated standard deviations; conformal: as many as held-out "
        "labels need for 90 % coverage; adaptive: as many as the crystals chosen in earlier rounds needed.",
    )

    @property
    def strategy(self) -> str:
        """Fine-tuning strategy under the engine's name; ``frozen`` where no network is trained."""
        return FROZEN if self.networks == "none" else self.networks

    @field_validator("networks")
    @classmethod
    def _frozen_means_two_things(cls, given: str) -> str:
        if given == FROZEN:
            raise ValueError("give 'none' to train no network, or 'head' to train a new output of one")
        return given

    @field_validator("head")
    @classmethod
    def _known_head(cls, name: str) -> str:
        try:
            return head_kind(name).name
        except TrainingError as error:
            raise ValueError(str(error)) from error

    @field_validator("backbone")
    @classmethod
    def _backbones_are_named(cls, names: str | tuple[str, ...]) -> str | tuple[str, ...]:
        given = (names,) if isinstance(names, str) else names
        if not given or not all(given):
            raise ValueError("name a backbone, such as megnet-multiproperty")
        if twice := [name for name in given if given.count(name) > 1]:
            raise ValueError(f"{twice[0]} is named twice; name each backbone once")
        return names

    @model_validator(mode="after")
    def _can_be_trained(self) -> ModelSection:
        from engine.learning.networks.strategies import parse

        trains_networks = self.networks not in ("none", "auto")
        try:
            if trains_networks:
                parse(self.networks)
        except TrainingError as error:
            raise ValueError(str(error)) from error
        kind = KINDS[self.head]
        if kind.is_network and not trains_networks:
            raise ValueError(
                f"head {self.head!r} needs networks that are trained, not networks = {self.networks!r}; try 'full'"
            )
        if not (kind.is_network or kind.is_stacked) and self.networks != "none":
            raise ValueError(
                f"head {self.head!r} reads cached embeddings; networks = {self.networks!r} needs "
                f"{heads_with_networks()}"
            )
        return self
