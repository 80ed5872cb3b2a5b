"""Which materials may be queued: ``[constraints]``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from campaigns.configuration.section import Section
from engine.materials.element_table import TABLE

ELEMENTS = frozenset(symbol for symbol, *_ in TABLE)


class Range(Section):
    """An interval; an end left out is open."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if self.min is None and self.max is None:
            raise ValueError("give min, max or both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}; exchange them")
        return self


class PredictedRange(Range):
    """An interval that a predicted property lies in with some probability."""

    model: str = Field(min_length=1, description="Folder that `train` wrote, of this property.")
    at_least: float = Field(default=0.0, ge=0, le=1, description="Materials less likely than this are left out.")

    @model_validator(mode="after")
    def _has_room(self) -> PredictedRange:
        if self.min is not None and self.min == self.max:
            raise ValueError(f"no prediction is certain to be {self.min:g}; widen the limits")
        return self


class ConstraintsSection(Section):
    """Which materials may be queued, and how many of a kind in a batch."""

    properties: dict[str, Range] = Field(
        default_factory=dict,
        examples=[{"band_gap_eV": {"min": 0.1}, "energy_above_hull_eV": {"max": 0.05}}],
        description="Allowed range of properties that the materials came with.",
    )
    missing: Literal["keep", "drop"] = Field(
        default="keep", description="What happens to a material without a constrained property: keep | drop."
    )
    exclude_elements: tuple[str, ...] = Field(
        default=(), examples=[("Hg", "Tl", "Pb")], description="No material with any of these elements."
    )
    only_elements: tuple[str, ...] = Field(
        default=(), examples=[("Mg", "Si", "Ge", "Sn")], description="Only materials made of these elements."
    )
    max_sites: int | None = Field(
        default=None, ge=1, examples=[40], description="Largest number of sites in the primitive cell."
    )
    max_per_chemical_system: int | None = Field(
        default=None, ge=1, examples=[3], description="Most materials of one chemical system in a batch."
    )
    max_per_prototype: int | None = Field(
        default=None,
        ge=1,
        examples=[5],
        description="Most materials of one prototype in a batch: space group, number of sites, anonymous formula.",
    )
    dimensionality: tuple[int, ...] = Field(
        default=(),
        examples=[(2, 3)],
        description="Dimensions that bonds extend in, a number or a list: 0: molecules; 1: chains; 2: layers; 3: "
        "networks.",
    )
    predicted: dict[str, PredictedRange] = Field(
        default_factory=dict,
        examples=[{"band_gap_eV": {"model": "models/gap", "min": 0.5, "at_least": 0.1}}],
        description="Ranges of properties that models of `kappascout train` predict: the probability to be inside "
        "counts, and a material with less than at_least is left out.",
    )

    @model_validator(mode="after")
    def _leave_elements(self) -> ConstraintsSection:
        if self.only_elements and not set(self.only_elements) - set(self.exclude_elements):
            raise ValueError("exclude_elements forbids all of only_elements; take some off either")
        return self

    @field_validator("dimensionality", mode="before")
    @classmethod
    def _several(cls, given: object) -> object:
        if isinstance(given, int):
            return (given,)
        return tuple(given) if isinstance(given, list) else given

    @field_validator("dimensionality")
    @classmethod
    def _possible(cls, wanted: tuple[int, ...]) -> tuple[int, ...]:
        if outside := [number for number in wanted if not 0 <= number <= 3]:
            raise ValueError(f"bonds reach in 0 to 3 dimensions, not in {outside[0]}")
        return wanted

    @field_validator("exclude_elements", "only_elements")
    @classmethod
    def _known(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [symbol for symbol in symbols if symbol not in ELEMENTS]
        if unknown:
            raise ValueError(f"no element {', '.join(unknown)}; use symbols such as Mg or Si")
        return symbols
