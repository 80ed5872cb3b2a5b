"""All of ``campaign.toml``, and the checks between its sections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field, model_validator

from campaigns.configuration.acquisition import AcquisitionSection
from campaigns.configuration.constraints import ConstraintsSection
from campaigns.configuration.goals import CampaignSection, ObjectiveSection, StoppingSection
from campaigns.configuration.labels import DftSection, LabelerSection, LabelsSection
from campaigns.configuration.machines import ClusterSection, ExecutionSection, StoreSection
from campaigns.configuration.model import ModelSection
from campaigns.configuration.section import Section
from campaigns.property_names import Property, probably_meant
from db.records import KAPPA_UNIT
from engine.learning.heads.kinds import KINDS, heads_with_process

if TYPE_CHECKING:
    from engine.metrics.stopping import StoppingRule

CoreHours = Annotated[float, Field(gt=0)]


class Configuration(Section):
    """All of ``campaign.toml``."""

    campaign: CampaignSection
    model: ModelSection = Field(default_factory=ModelSection)
    acquisition: AcquisitionSection = Field(default_factory=AcquisitionSection)
    constraints: ConstraintsSection = Field(default_factory=ConstraintsSection)
    objectives: tuple[ObjectiveSection, ...] = ()
    stopping: StoppingSection = Field(default_factory=StoppingSection)
    costs: dict[str, CoreHours] = Field(
        default_factory=dict,
        examples=[{"dft": 500.0, "agl": 0.01}],
        description="Core-hours of a calculation by fidelity; without it they are learned from finished ones.",
    )
    labels: LabelsSection = Field(default_factory=LabelsSection)
    labeler: LabelerSection = Field(default_factory=LabelerSection)
    dft: DftSection = Field(default_factory=DftSection)
    # how work is done, not its result: rounds neither store it nor depend on it
    execution: ExecutionSection = Field(default_factory=ExecutionSection, exclude=True)
    cluster: ClusterSection = Field(default_factory=ClusterSection, exclude=True)
    store: StoreSection = Field(default_factory=StoreSection)

    @property
    def lower_fidelities(self) -> tuple[str, ...]:
        """Lower fidelities that members learn on top of: ``[model] lower_fidelity``, or those that are queued too."""
        return (self.model.lower_fidelity,) if self.model.lower_fidelity else self.acquisition.fidelities

    def labelers(self) -> dict[str, Configuration]:
        """For each fidelity that may be queued, the settings with it as the target fidelity."""
        own = self.model_copy(update={"labeler": self.labeler.model_copy(update={"fidelities": {}})})
        return {self.campaign.fidelity: own} | {
            name: self.model_copy(
                update={"campaign": self.campaign.model_copy(update={"fidelity": name}), "labeler": section}
            )
            for name, section in self.labeler.fidelities.items()
        }

    @property
    def stopping_rule(self) -> StoppingRule:
        """The stopping rule as the engine takes it."""
        from engine.metrics.stopping import StoppingRule

        section = self.stopping
        return StoppingRule(
            undiscovered_hits=section.undiscovered_hits or None,
            best_found=section.best_found or None,
            idle_rounds=section.idle_rounds or None,
            budget_core_hours=self.campaign.budget_core_hours,
        )

    @model_validator(mode="after")
    def _function_fits_the_goals(self) -> Configuration:
        function, goal = self.acquisition.function, self.campaign.goal
        if self.objectives and not self.acquisition.is_pareto:
            raise ValueError(
                f"[[objectives]] are traded off by qLogNEHVI or qLogNParEGO, not by [acquisition] function = "
                f"{function!r}; change it, or make them [constraints]"
            )
        if self.acquisition.is_pareto and not self.objectives:
            raise ValueError(f"[acquisition] function = {function!r} trades objectives off; give [[objectives]]")
        names = [self.campaign.property, *(objective.property for objective in self.objectives)]
        if len({*names}) < len(names):
            raise ValueError(f"a property is an objective twice ({', '.join(names)}); keep one")
        if goal in ("target", "window") and not self.acquisition.fits_goal("window"):
            raise ValueError(
                f"[acquisition] function = {function!r} is for goals min and max, not {goal!r}; use qLogEI or ucb"
            )
        return self

    @model_validator(mode="after")
    def _threshold_has_a_logarithm(self) -> Configuration:
        threshold = self.acquisition.threshold
        if threshold is not None and threshold <= 0 and self.campaign.learned_scale == "log10":
            raise ValueError(f"[acquisition] threshold = {threshold:g} has no logarithm; give a value above zero")
        return self

    @model_validator(mode="after")
    def _fidelities_are_whole(self) -> Configuration:
        own, cheaper = self.campaign.fidelity, self.acquisition.fidelities
        known = f"[acquisition] fidelities names {', '.join(cheaper) or 'none'}"
        if own in cheaper:
            raise ValueError(
                f"[acquisition] fidelities = [{own!r}] is the fidelity of the campaign itself; name a lower one"
            )
        for name in cheaper:
            if name not in self.costs:
                raise ValueError(f"{known}, and its cost is not given; give [costs] {name} = CORE_HOURS")
            if self.model.lower_fidelity and (self.model.lower_fidelity,) != cheaper:
                raise ValueError(
                    f"[model] lower_fidelity = {self.model.lower_fidelity!r}, and {known}, which members "
                    "learn on top of then; remove lower_fidelity"
                )
        hours = [self.costs[name] for name in cheaper]
        if len({*cheaper}) < len(cheaper) or hours != sorted(hours):
            raise ValueError(
                f"{known}, with core-hours {', '.join(f'{h:g}' for h in hours)}; name each once, from the cheapest"
            )
        if cheaper and not KINDS[self.model.head].has_process:
            raise ValueError(
                f"{known}, which only Gaussian processes can learn from; set [model] head = {heads_with_process()}"
            )
        tables = [*self.labeler.fidelities, *(n for s in self.labeler.fidelities.values() for n in s.fidelities)]
        if unknown := [name for name in tables if name not in cheaper]:
            raise ValueError(f"[labeler.{unknown[0]}]: {known}; add {unknown[0]!r} there, or remove the section")
        if unknown := [name for name in self.costs if name not in (own, *cheaper)]:
            raise ValueError(
                f"[costs] {unknown[0]}: the campaign queues {', '.join((own, *cheaper))}; name one of these"
            )
        return self

    @model_validator(mode="after")
    def _limits_are_of_known_properties(self) -> Configuration:
        known = [self.campaign.property, *(objective.property for objective in self.objectives)]
        for name in self.labels.limits:
            if meant := probably_meant(name, known):
                raise ValueError(f"[labels] limits has {name!r}, and the campaign learns {meant!r}; use that name")
        return self

    @model_validator(mode="after")
    def _labelers_fit(self) -> Configuration:
        for settings in self.labelers().values():
            settings._replay_has_a_unit()
            settings._calculator_gives_kappa()
        return self

    def _replay_has_a_unit(self) -> None:
        if self.labeler.kind == "replay" and not self.campaign.unit:
            raise ValueError(
                "[campaign] unit is empty, and labeler 'replay' writes labels, which need one; give a unit"
            )

    def _calculator_gives_kappa(self) -> None:
        kind, section = self.labeler.kind, self.campaign
        if kind not in ("agl", "phonons"):
            return
        if not Property(section.property).is_conductivity or section.unit != KAPPA_UNIT:
            raise ValueError(
                f"labeler {kind!r} gives kappa in {KAPPA_UNIT}, [campaign] asks for {section.property} in "
                f"{section.unit!r}; change [campaign] or the labeler"
            )
        if section.fidelity in ("dft", "experiment"):
            raise ValueError(
                f"labeler {kind!r} calculates with a potential, so its labels are not {section.fidelity!r}; set "
                f"[campaign] fidelity = {'agl' if kind == 'agl' else 'mlip'!r}"
            )
