"""The ensemble: ``[model]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from campaigns.configuration.section import Section


class ModelSection(Section):
    """The ensemble."""

    backbone: str | tuple[str, ...] = Field(
        default="megnet-multiproperty",
        description="Shipped name, folder, or MatGL name; or a list of them, read side by side.",
    )
    strategy: str = Field(
        default="frozen",
        description="frozen: heads on cached embeddings; full, last, head, blocks:K, ...: networks are fine-tuned too.",
    )
    head: Literal["gp", "mlp", "network"] = Field(
        default="gp",
        description="gp or mlp on embeddings (a gp is blended with trees and networks), or the networks' own.",
    )
    trees: bool = Field(
        default=True,
        description="Whether a gp without prior is blended with extra-trees, at the share held-out errors ask for.",
    )
    members: int = Field(default=5, ge=2, le=100, description="Members; each leaves out one fold.")
    epochs: int = Field(default=30, ge=1, description="Epochs of fine-tuned networks.")
    prior: str = Field(
        default="",
        description="A cheaper estimate that members read as a column: a fidelity of labels, or a folder of `train`.",
    )
    embeddings: Literal["float32", "float16"] = Field(
        default="float32", description="On disk; float16 takes half of it and moves predictions by a ten-thousandth."
    )
    intervals: Literal["gaussian", "conformal"] = Field(
        default="gaussian",
        description="gaussian: 1.645 calibrated deviations; conformal: as many as held-out labels needed for 90 %.",
    )

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
        from engine.exceptions import TrainingError
        from engine.learning.networks.strategies import parse

        trains_networks = self.strategy not in ("frozen", "auto")
        try:
            if trains_networks:
                parse(self.strategy)
        except TrainingError as error:
            raise ValueError(str(error)) from error
        if self.head == "network" and not trains_networks:
            raise ValueError(f"head 'network' needs a strategy that trains networks, not {self.strategy!r}; try 'full'")
        if self.head == "mlp" and self.strategy != "frozen":
            raise ValueError(f"head 'mlp' reads cached embeddings, strategy {self.strategy!r} needs 'gp' or 'network'")
        return self
