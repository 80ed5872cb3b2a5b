"""Which values are wanted, and when to stop: ``[campaign]``, ``[[objectives]]`` and ``[stopping]``."""

from __future__ import annotations

import builtins
from typing import Literal

from pydantic import Field, field_validator, model_validator

from campaigns.configuration.section import Section
from campaigns.goals import Goal, Scale, default_scale
from campaigns.property_names import Property

DEFAULT_PROPERTY = "kappa_300K"
GoalName = Literal["min", "max", "target", "window"]


class CampaignSection(Section):
    """Which values are wanted, and how much may be spent on them."""

    name: str = Field(min_length=1, description="Name of the campaign in its store.")
    goal: GoalName = Field(
        description="Which values are wanted: min: low ones; max: high ones; target: those near `target`; window: "
        "those inside `window`."
    )
    property: str = Field(default=DEFAULT_PROPERTY, min_length=1, description="Property that is learned and ranked.")
    unit: str = Field(
        default_factory=lambda given: Property(given.get("property", DEFAULT_PROPERTY)).unit,
        description="Unit of the property; W/(m K) for kappa*, and to be given for any other.",
    )
    scale: Literal["auto", "log10", "linear"] = Field(
        default="auto",
        description="Scale the property is learned on: auto | log10 | linear; auto takes log10 for kappa* and linear "
        "otherwise.",
    )
    target: float | None = Field(default=None, examples=[1.0], description='The value wanted, with goal = "target".')
    window: tuple[float, float] | None = Field(
        default=None, examples=[(0.5, 1.0)], description='Lower and upper end, with goal = "window".'
    )
    fidelity: str = Field(
        default="dft",
        min_length=1,
        description="Only labels of this fidelity train the model (experiment, dft, mlip, agl, ...).",
    )
    batch: int = Field(default=20, ge=1, description="Materials queued in a round.")
    budget: int = Field(default=200, ge=1, description="Labels that the campaign may request in all.")
    budget_core_hours: float | None = Field(
        default=None, gt=0, examples=[1e5], description="Core-hours that all calculations together may take."
    )
    hit: float | None = Field(
        default=None,
        examples=[1.0],
        description="A hit is a value as good as this; without it, one inside the window, or among the best tenth of "
        "the "
        "first labels.",
    )
    seed: int = Field(default=0, ge=0, description="Random seed: the same seed gives the same campaign.")

    @field_validator("property")
    @classmethod
    def _name_has_one_temperature(cls, name: str) -> str:
        _ = Property(name).temperature
        return name

    @model_validator(mode="after")
    def _hit_has_a_logarithm(self) -> CampaignSection:
        if self.hit is not None and self.hit <= 0 and self.learned_scale == "log10":
            raise ValueError(f"hit = {self.hit:g} has no logarithm; give a value above zero, or scale = 'linear'")
        return self

    @model_validator(mode="after")
    def _goal_is_whole(self) -> CampaignSection:
        _check_goal(self)
        return self

    @builtins.property  # the field above hides the name
    def learned_scale(self) -> Literal["log10", "linear"]:
        """Scale, with ``auto`` resolved."""
        return default_scale(self.property) if self.scale == "auto" else self.scale

    @builtins.property
    def sought(self) -> Goal:
        """Goal for the property."""
        return _goal(self, Scale(self.learned_scale))


class ObjectiveSection(Section):
    """Another property to optimise, traded off by qLogNEHVI or qLogNParEGO; one table for each."""

    property: str = Field(
        min_length=1,
        examples=["band_gap_eV"],
        description="Property that the materials came with, or that `model` predicts.",
    )
    goal: GoalName = Field(examples=["window"], description="Which values are wanted: min | max | target | window.")
    target: float | None = Field(default=None, examples=[1.0], description='The value wanted, with goal = "target".')
    window: tuple[float, float] | None = Field(
        default=None, examples=[(0.5, 1.5)], description='Lower and upper end, with goal = "window".'
    )
    model: str = Field(
        default="",
        examples=["models/gap"],
        description="Folder that `kappascout train` wrote; without one the materials' own values are used.",
    )

    @model_validator(mode="after")
    def _goal_is_whole(self) -> ObjectiveSection:
        _check_goal(self)
        return self

    @builtins.property
    def learned_scale(self) -> Literal["log10", "linear"]:
        """Scale on which it is compared, ``log10`` or ``linear``."""
        return default_scale(self.property)

    def sought_on(self, scale: Scale) -> Goal:
        """Goal for the property, on this scale."""
        return _goal(self, scale)


class StoppingSection(Section):
    """When to stop; each of these is a criterion, and 0 switches one off."""

    undiscovered_hits: float = Field(
        default=0.5, ge=0, description="Fewer hits than this are expected among materials without a label."
    )
    best_found: float = Field(
        default=0.95, ge=0, le=1, description="The best label is the best of the pool with this probability."
    )
    idle_rounds: int = Field(default=3, ge=0, description="This many rounds in a row have not improved the best label.")
    action: Literal["advise", "stop"] = Field(
        default="advise",
        description="advise: report the reason and go on; stop: start no further round, unless `kappascout run "
        "--go-on`.",
    )


def _check_goal(section: CampaignSection | ObjectiveSection) -> None:
    """Refuse a target or a window without its goal and vice versa, and values without a logarithm."""
    for name, value in (("target", section.target), ("window", section.window)):
        if section.goal == name and value is None:
            example = "target = VALUE" if name == "target" else "window = [LOW, HIGH]"
            raise ValueError(f"goal = {name!r} needs {example}")
        if section.goal != name and value is not None:
            raise ValueError(f"{name} belongs to goal = {name!r}, and goal is {section.goal!r}; change one")
    if section.window and not section.window[0] < section.window[1]:
        low, high = section.window
        raise ValueError(f"window = [{low:g}, {high:g}] is empty; give the lower end first")
    ends = section.window or ((section.target,) if section.target is not None else ())
    if ends and min(ends) <= 0 and section.learned_scale == "log10":
        raise ValueError(f"{section.goal} {min(ends):g} has no logarithm; give values above zero, or a linear scale")


def _goal(section: CampaignSection | ObjectiveSection, scale: Scale) -> Goal:
    from engine.acquire.objectives import Objective

    if section.target is not None:
        return Goal(Objective.target(float(scale.learned(section.target))), scale)
    if section.window is not None:
        return Goal(Objective.window(*scale.learned(section.window).tolist()), scale)
    return Goal(Objective.of(section.goal), scale)
