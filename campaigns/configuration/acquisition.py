"""How the next batch is chosen: ``[acquisition]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from campaigns.configuration.section import Section


class AcquisitionSection(Section):
    """How the next batch is chosen."""

    function: str = Field(default="ucb", description="Acquisition function, which ranks the candidates.")
    beta: float | Literal["schedule"] = Field(
        default=0.25, description='Weight of the variance in ucb and qUCB; "schedule": it grows with the rounds.'
    )
    epsilon: float = Field(default=0.1, ge=0, le=1, description="Share of random picks in epsilon_greedy.")
    threshold: float | None = Field(
        default=None, examples=[1.0], description="level_set learns on which side of this value the materials lie."
    )
    share: float = Field(
        default=0.05, gt=0, lt=1, description="Share of the pool that top_share searches for, the best of it."
    )
    portfolio: tuple[str, ...] = Field(
        default=("ucb", "qLogEI", "thompson", "greedy"),
        description="Functions that portfolio chooses between, by the labels that each has brought.",
    )
    draws: int = Field(
        default=512,
        ge=8,
        le=4096,
        description="Joint draws of the posterior; large batches need more of them to stay chosen jointly.",
    )
    diversity: Literal["none", "hallucinate", "penalise", "determinant"] = Field(
        default="none",
        description="How a batch is kept diverse: none | hallucinate: ucb or top_share are conditioned on the "
        "batch's own "
        "picks | penalise, determinant: distances between embeddings count.",
    )
    feasibility: bool = Field(
        default=True,
        description="Multiply by the probability that the calculation succeeds, once failures show which do not.",
    )
    per_core_hour: bool = Field(default=False, description="Rank by value per expected core-hour.")
    prefilter: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of a large pool that a cheap model keeps for the ensemble to score, e.g. 0.05; 0: all of "
        "it.",
    )
    fidelities: tuple[str, ...] = Field(
        default=(),
        examples=[("agl",)],
        description="Lower fidelities that may be queued too, from the cheapest, where they inform more per core-hour: "
        "with function top_share, GIBBON, qMES, qKG or variance, their [costs], and [labeler.agl].",
    )
    first_batch: Literal["spread", "estimate"] = Field(
        default="spread",
        description="The first batch, without a model: spread: all over the pool; estimate: mostly the best by "
        "`first_batch_estimate`.",
    )
    first_batch_estimate: str = Field(
        default="",
        examples=["agl"],
        description='Estimate that first_batch = "estimate" ranks by: a fidelity of labels, or a folder that '
        "`kappascout train` wrote.",
    )
    families: Literal["none", "prototype", "chemical_system"] = Field(
        default="none",
        description="Families of materials that take turns in a first batch: none | prototype | chemical_system.",
    )

    @field_validator("function")
    @classmethod
    def _known_function(cls, name: str) -> str:
        return _known_functions((name,))[0]

    @field_validator("portfolio")
    @classmethod
    def _known_members(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from engine.acquire.functions import check_portfolio
        from engine.exceptions import AcquisitionError

        if not names:
            raise ValueError("name some functions, such as ucb and qLogEI")
        try:
            check_portfolio(_known_functions(names))
        except AcquisitionError as error:
            raise ValueError(str(error)) from error
        return names

    @field_validator("beta", mode="before")
    @classmethod
    def _beta_is_a_weight(cls, beta: object) -> object:
        if beta != "schedule" and (isinstance(beta, bool) or not isinstance(beta, int | float) or not beta >= 0):
            raise ValueError("give a weight of the variance, 0 or more, or 'schedule'")
        return beta

    @model_validator(mode="after")
    def _agree(self) -> AcquisitionSection:
        if self.function == "level_set" and self.threshold is None:
            raise ValueError("function 'level_set' learns where values pass a threshold; give threshold = VALUE")
        from engine.acquire.functions import FUNCTIONS

        function = FUNCTIONS[self.function]
        if self.diversity == "hallucinate" and not function.can_hallucinate:
            able = " and ".join(name for name, other in FUNCTIONS.items() if other.can_hallucinate)
            raise ValueError(f"diversity 'hallucinate' is for {able}, not {self.function}; use 'penalise'")
        if self.diversity != "none" and function.is_diverse:
            raise ValueError(f"{self.function} is diverse by itself; set diversity = 'none'")
        if self.first_batch == "estimate" and not self.first_batch_estimate:
            raise ValueError(
                "first_batch = 'estimate' needs first_batch_estimate = 'FIDELITY' (of labels in the store) or a model"
            )
        if self.fidelities and not function.counts_fidelities:
            counting = [name for name, other in FUNCTIONS.items() if other.counts_fidelities]
            raise ValueError(
                f"function {self.function!r} has no value for a label of {self.fidelities[0]}; with fidelities "
                f"use {', '.join(counting[:-1])} or {counting[-1]}"
            )
        return self

    @property
    def by_cost(self) -> bool:
        """Whether value is counted per core-hour; two fidelities cannot be compared otherwise."""
        return self.per_core_hour or bool(self.fidelities)

    def fits_goal(self, kind: str) -> bool:
        """Whether the function fits a goal: ``min``, ``max`` or ``window`` (a target is one)."""
        from engine.acquire.functions import FUNCTIONS

        return kind in FUNCTIONS[self.function].goals

    @property
    def is_pareto(self) -> bool:
        """Whether the function trades several objectives off."""
        from engine.acquire.functions import FUNCTIONS, Needs

        return FUNCTIONS[self.function].needs is Needs.PARETO


def _known_functions(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse acquisition functions that do not exist, naming the nearest."""
    from engine.acquire.functions import acquisition_function
    from engine.exceptions import AcquisitionError

    try:
        return tuple(acquisition_function(name).name for name in names)
    except AcquisitionError as error:
        raise ValueError(str(error)) from error
