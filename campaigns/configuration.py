"""``campaign.toml``: every setting of a campaign, checked when it is read."""

from __future__ import annotations

import builtins
import difflib
import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from campaigns.exceptions import ConfigurationError
from campaigns.training_set import Goal, Scale, default_scale
from db.records import KAPPA_UNIT
from engine.materials.elements import ATOMIC_NUMBERS

if TYPE_CHECKING:
    from db.records import RoundRecord
    from engine.execution import ExecutionSettings
    from engine.metrics.stopping import StoppingRule

GoalName = Literal["min", "max", "target", "window"]
CoreHours = Annotated[float, Field(gt=0)]
FILE = "campaign.toml"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class CampaignSection(_Section):
    """What is sought."""

    name: str = Field(min_length=1, description="Name of the campaign in the store.")
    goal: GoalName = Field(description="Low, high, nearest to a target, or inside a window.")
    property: str = Field(default="kappa_300K", min_length=1, description="The property that is learned and ranked.")
    unit: str = Field(default="W/(m K)", description="Unit of the property.")
    scale: Literal["auto", "log10", "linear"] = Field(
        default="auto", description="Scale it is learned on; auto takes log10 for kappa* and linear otherwise."
    )
    target: float | None = Field(default=None, description="Of goal 'target': the value wanted.")
    window: tuple[float, float] | None = Field(default=None, description="Of goal 'window': its lower and upper end.")
    fidelity: str = Field(default="dft", min_length=1, description="Only labels of this fidelity train the model.")
    batch: int = Field(default=20, ge=1, description="Materials queued in a round.")
    budget: int = Field(default=200, ge=1, description="Labels that the campaign may ask for in all.")
    budget_core_hours: float | None = Field(
        default=None, gt=0, description="Core-hours that all calculations together may take."
    )
    hit: float | None = Field(
        default=None,
        description="A hit is a value as good as this; without it, the window, or the best tenth of the first labels.",
    )
    seed: int = Field(default=0, ge=0, description="Root of every random choice.")

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
        """Scale that ``auto`` stands for."""
        return default_scale(self.property) if self.scale == "auto" else self.scale

    @builtins.property
    def sought(self) -> Goal:
        """What is wanted of the property."""
        return _goal(self, Scale(self.learned_scale))


class ObjectiveSection(_Section):
    """Another property that matters, known or predicted by a model."""

    property: str = Field(min_length=1, description="Known property of the materials, or that of the model.")
    goal: GoalName = Field(description="Low, high, nearest to a target, or inside a window.")
    target: float | None = Field(default=None, description="Of goal 'target': the value wanted.")
    window: tuple[float, float] | None = Field(default=None, description="Of goal 'window': its lower and upper end.")
    model: str = Field(default="", description="Folder that `train` wrote; without one the property is known.")

    @model_validator(mode="after")
    def _goal_is_whole(self) -> ObjectiveSection:
        _check_goal(self)
        return self

    @builtins.property
    def learned_scale(self) -> Literal["log10", "linear"]:
        """Scale on which it is compared."""
        return default_scale(self.property)

    def sought_on(self, scale: Scale) -> Goal:
        """Give what is wanted of the property, on this scale."""
        return _goal(self, scale)


class ModelSection(_Section):
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
        default="gp", description="gp or mlp on embeddings (a gp is blended with networks), or the networks' own."
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
        from engine.learning.strategies import parse

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


_INFORMATION = ("GIBBON", "qMES", "qKG", "variance")
"""Acquisition functions that count what a label of a cheaper fidelity tells about the one that is wanted."""


class AcquisitionSection(_Section):
    """How the next batch is chosen."""

    function: str = Field(default="ucb", description="Acquisition function.")
    beta: float | Literal["schedule"] = Field(
        default=1.0, description="Weight of the variance in ucb and qUCB; 'schedule' lets it grow with the rounds."
    )
    epsilon: float = Field(default=0.1, ge=0, le=1, description="Share of random picks in epsilon_greedy.")
    threshold: float | None = Field(default=None, description="level_set learns on which side of this values lie.")
    share: float = Field(
        default=0.05, gt=0, lt=1, description="top_share looks for this share of the pool, the best of it."
    )
    portfolio: tuple[str, ...] = Field(
        default=("ucb", "qLogEI", "thompson", "greedy"), description="Functions that portfolio hedges between."
    )
    draws: int = Field(
        default=512,
        ge=8,
        le=4096,
        description="Joint draws of the posterior; more keep a large batch joint for longer.",
    )
    diversity: Literal["none", "hallucinate", "penalise", "determinant"] = Field(
        default="none",
        description="How a batch is kept apart: hallucinate conditions ucb or top_share on its own picks; penalise and "
        "determinant work in embedding space.",
    )
    feasibility: bool = Field(
        default=True, description="Times the probability that the calculation succeeds, where failures tell it."
    )
    per_core_hour: bool = Field(default=False, description="Value per expected core-hour.")
    first_pass: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of the candidates that a cheap model keeps for the ensemble, 0.05 say; 0: all of them.",
    )
    fidelities: tuple[str, ...] = Field(
        default=(),
        max_length=1,
        description="A cheaper fidelity that may be queued too, where it tells more per core-hour.",
    )
    first_batch: Literal["spread", "prior"] = Field(
        default="spread", description="Without a model: spread over the pool, or mostly the best of an estimate."
    )
    prior: str = Field(
        default="", description="Estimate of first_batch = 'prior': a fidelity of labels, or a folder of `train`."
    )
    families: Literal["none", "prototype", "chemical_system"] = Field(
        default="none", description="Families that take turns in a first batch."
    )

    @field_validator("function")
    @classmethod
    def _known_function(cls, name: str) -> str:
        return _known_functions((name,))[0]

    @field_validator("portfolio")
    @classmethod
    def _known_members(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        from engine.acquire.functions import FUNCTIONS, Needs

        if not names:
            raise ValueError("name some functions, such as ucb and qLogEI")
        if bad := [n for n in _known_functions(names) if FUNCTIONS[n].needs in (Needs.OTHERS, Needs.PARETO)]:
            raise ValueError(f"{bad[0]} cannot be part of a portfolio; name functions of one objective")
        return names

    @field_validator("beta", mode="before")
    @classmethod
    def _beta_is_a_weight(cls, beta: Any) -> Any:
        if beta != "schedule" and (isinstance(beta, bool) or not isinstance(beta, int | float) or not beta >= 0):
            raise ValueError("give a weight of the variance, 0 or more, or 'schedule'")
        return beta

    @model_validator(mode="after")
    def _agree(self) -> AcquisitionSection:
        if self.function == "level_set" and self.threshold is None:
            raise ValueError("function 'level_set' learns where values pass a threshold; give threshold = VALUE")
        if self.diversity == "hallucinate" and self.function not in ("ucb", "top_share"):
            raise ValueError(f"diversity 'hallucinate' is for ucb and top_share, not {self.function}; use 'penalise'")
        if self.diversity != "none" and self.function in ("thompson", "random"):
            raise ValueError(f"{self.function} is diverse by itself; set diversity = 'none'")
        if self.first_batch == "prior" and not self.prior:
            raise ValueError("first_batch = 'prior' needs prior = 'FIDELITY' (of labels that are there) or a model")
        if self.fidelities and self.function not in _INFORMATION:
            raise ValueError(
                f"function {self.function!r} cannot say what a label of {self.fidelities[0]} is worth; with fidelities "
                f"use {', '.join(_INFORMATION[:-1])} or {_INFORMATION[-1]}"
            )
        return self

    @property
    def by_cost(self) -> bool:
        """Whether value is counted per core-hour; two fidelities cannot be compared otherwise."""
        return self.per_core_hour or bool(self.fidelities)

    @property
    def is_pareto(self) -> bool:
        """Whether the function trades several objectives off."""
        from engine.acquire.functions import FUNCTIONS, Needs

        return FUNCTIONS[self.function].needs is Needs.PARETO


class Range(_Section):
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


class ConstraintsSection(_Section):
    """Which materials may be queued, and how many of a kind."""

    properties: dict[str, Range] = Field(default_factory=dict, description="Allowed range by property name.")
    missing: Literal["keep", "drop"] = Field(
        default="keep", description="What becomes of a material that lacks a constrained property."
    )
    exclude_elements: tuple[str, ...] = Field(default=(), description="No material with any of these.")
    only_elements: tuple[str, ...] = Field(default=(), description="Only materials made of these.")
    max_sites: int | None = Field(default=None, ge=1, description="Largest primitive cell.")
    max_per_chemical_system: int | None = Field(default=None, ge=1, description="Most of one system in a batch.")
    max_per_prototype: int | None = Field(
        default=None,
        ge=1,
        description="Most of one prototype (space group, sites, formula without names) in a batch.",
    )
    predicted: dict[str, PredictedRange] = Field(
        default_factory=dict, description="Range of properties that other models predict, as a probability."
    )

    @model_validator(mode="after")
    def _leave_elements(self) -> ConstraintsSection:
        if self.only_elements and not set(self.only_elements) - set(self.exclude_elements):
            raise ValueError("exclude_elements forbids all of only_elements; take some off either")
        return self

    @field_validator("exclude_elements", "only_elements")
    @classmethod
    def _known(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [symbol for symbol in symbols if symbol not in ATOMIC_NUMBERS]
        if unknown:
            raise ValueError(f"no element {', '.join(unknown)}; use symbols such as Mg or Si")
        return symbols


class StoppingSection(_Section):
    """When stopping is advised, or done."""

    undiscovered_hits: float = Field(
        default=0.5, ge=0, description="Fewer hits than this are expected among the unlabelled; 0: never mind."
    )
    best_found: float = Field(
        default=0.95, ge=0, le=1, description="The best label is the pool's best with this probability; 0: never mind."
    )
    idle_rounds: int = Field(
        default=3, ge=0, description="So many rounds in a row have not improved the best; 0: never mind."
    )
    action: Literal["advise", "stop"] = Field(
        default="advise", description="advise: say it; stop: start no other round, unless `run --go-on`."
    )


class LabelerSection(_Section):
    """Where labels come from."""

    kind: Literal["dft", "replay", "agl", "phonons"] = Field(
        default="dft",
        description="dft waits for imported results, replay knows the answers, agl and phonons calculate here.",
    )
    source: str = Field(
        default="", description="replay: file of labelled records (relative to the campaign), or 'reference'."
    )
    field: str = Field(default="", description="replay: field of the records' properties that holds the answer.")
    potential: str = Field(
        default="",
        description="agl, phonons: folder of a MatGL potential (relative to the campaign), a MatGL name, or a "
        "classical one such as rigid-ion:NaCl, lennard-jones:Ar, tersoff:Si.",
    )
    workers: int = Field(default=1, ge=1, description="agl, phonons: processes, of one thread each.")
    time_limit: float = Field(
        default=3600.0, gt=0, description="agl, phonons: wall seconds a material; more is a failure, timed_out."
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, description="agl, phonons: what decides the number, e.g. strain, or min_length and floor."
    )

    fidelities: dict[str, LabelerSection] = Field(
        default_factory=dict, description="[labeler.NAME]: where labels of a cheaper fidelity come from."
    )

    @model_validator(mode="before")
    @classmethod
    def _tables_are_fidelities(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        own = {
            name: value
            for name, value in given.items()
            if not isinstance(value, dict) or difflib.get_close_matches(name, cls.model_fields, cutoff=0.8)
        }
        tables = {name: value for name, value in given.items() if name not in own}
        return own | ({"fidelities": own.get("fidelities", {}) | tables} if tables else {})

    @model_validator(mode="after")
    def _calculator_has_a_potential(self) -> LabelerSection:
        if self.kind in ("agl", "phonons") and not self.potential:
            raise ValueError(f"kind {self.kind!r} needs potential = 'FOLDER' or a name, e.g. 'rigid-ion:NaCl'")
        return self

    @model_validator(mode="after")
    def _replay_has_a_source(self) -> LabelerSection:
        if self.kind == "replay" and not self.source:
            raise ValueError("kind 'replay' needs source = 'FILE' (and field = 'PROPERTY') or source = 'reference'")
        return self


class DftSection(_Section):
    """What ``queue export --format phono3py`` and ``vasp`` write."""

    relax: bool = Field(
        default=True, description="Relax first and displace the relaxed cell; false: displace the crystal as it is."
    )
    min_length: float = Field(default=10.0, gt=0, description="Shortest supercell height for third order, Angstrom.")
    fc2_min_length: float | None = Field(
        default=None, gt=0, description="The same for a second-order supercell of its own; without it both share one."
    )
    displacements: Literal["random", "systematic"] = Field(
        default="random", description="random: few supercells, fitted by symfc; systematic: all that symmetry leaves."
    )
    amplitude: float = Field(default=0.03, gt=0, le=0.5, description="Length of a displacement, Angstrom.")
    pair_cutoff: float | None = Field(
        default=None, gt=0, description="Third order between atoms farther apart is left out, Angstrom."
    )
    mesh_length: float = Field(default=60.0, gt=0, description="Density of the q-point mesh, Angstrom.")
    solver: Literal["rta", "lbte"] = Field(default="rta", description="Solution of the Boltzmann equation.")
    isotope: bool = Field(default=False, description="Scattering by natural isotopes.")
    temperatures: tuple[float, ...] = Field(default=(300.0,), min_length=1, description="Kelvin.")
    born: Literal["auto", "always", "never"] = Field(
        default="auto", description="Born charges and dielectric tensor; auto decides for polar insulators."
    )
    imaginary_tolerance: float = Field(
        default=0.1, ge=0, description="A result with a mode further below zero is a failure, THz."
    )
    max_supercells: int = Field(default=1000, ge=1, description="Entries that take more supercells are passed over.")
    max_atoms: int = Field(default=400, ge=1, description="Entries whose supercell has more atoms are passed over.")
    core_hours: float = Field(
        default=10.0, gt=0, description="Cost of one supercell of 100 atoms; grows with the atoms squared."
    )
    incar: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="INCAR tags over those of pymatgen's input sets."
    )
    potcar: dict[str, str] = Field(default_factory=dict, description="Pseudopotential by element, over MPRelaxSet's.")
    vasp_command: str = Field(default="srun vasp_std", min_length=1, description="How VASP is started.")
    setup: str = Field(default="", description="Shell lines before the work, e.g. module load.")
    slurm: dict[str, str | int] = Field(default_factory=dict, description="Options of sbatch, e.g. time = '24:00:00'.")
    slurm_template: str = Field(
        default="", description="Jinja template of the job script, relative to the campaign; empty: the shipped one."
    )

    @field_validator("temperatures")
    @classmethod
    def _above_zero(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if min(temperatures) <= 0:
            raise ValueError(f"{min(temperatures):g} K; give temperatures above zero")
        return temperatures


class StoreSection(_Section):
    """Where the campaign's tables live."""

    url: str = Field(
        default="",
        description="Database URL, ${NAME} from the environment; empty means store.sqlite in the campaign directory.",
    )
    timeout: float = Field(
        default=30.0, gt=0, le=86400, description="Seconds to wait for a store that is locked or does not answer."
    )

    @model_validator(mode="after")
    def _no_password(self) -> StoreSection:
        # this file is copied, archived and kept in every round's manifest
        parts = urlsplit(self.url)
        secrets = [parts.password, *(v for k, v in parse_qsl(parts.query) if k in {"password", "sslpassword"})]
        if any(secret and not re.fullmatch(r"\$\{\w+\}", secret) for secret in secrets):
            raise ValueError("url holds a password; write ${NAME} and set that environment variable, or set PGPASSWORD")
        return self


class SlurmSection(_Section):
    """Jobs that become Dask's workers; the options of ``dask_jobqueue.SLURMCluster`` by their own names."""

    queue: str = Field(default="", description="Partition; empty for the cluster's default.")
    account: str = Field(default="", description="Account that pays; empty for your default.")
    cores: int = Field(default=1, ge=1, description="Cores of a job; each runs one worker of one thread.")
    memory: str = Field(default="4 GB", min_length=1, description="Memory of a job, shared by its workers.")
    walltime: str = Field(default="01:00:00", min_length=1, description="Time limit; a job that ends is followed.")
    interface: str = Field(default="", description="Network interface that nodes reach each other by, e.g. ib0.")
    log_directory: str = Field(default="", description="Folder of the jobs' logs; empty for the current one.")
    job_extra_directives: tuple[str, ...] = Field(default=(), description="More options of sbatch, '--qos=long'.")
    job_script_prologue: tuple[str, ...] = Field(default=(), description="Shell lines before the work, module load.")


class ExecutionSection(_Section):
    """Where work is done; it never changes a result."""

    backend: Literal["local", "dask"] = Field(
        default="local", description="Processes of this machine, or a Dask cluster (extra `dask`)."
    )
    workers: int = Field(
        default=0, ge=0, description="Processes of one thread each; 0: one a core here, one job on Slurm."
    )
    address: str = Field(default="", description="dask: a scheduler that runs already, tcp://host:8786.")
    slurm: SlurmSection | None = Field(default=None, description="dask: jobs of Slurm become the workers.")
    timeout: float = Field(default=300.0, gt=0, description="dask: seconds to wait for scheduler and first worker.")

    @model_validator(mode="after")
    def _one_place(self) -> ExecutionSection:
        if self.backend == "dask" and self.address and self.slurm:
            raise ValueError("address names one cluster and [execution.slurm] another; keep one")
        return self

    def settings(self) -> ExecutionSettings:
        """As the engine takes them."""
        from engine.execution import ExecutionSettings

        if self.backend == "local":
            return ExecutionSettings(workers=self.workers)
        slurm = {k: v for k, v in self.slurm.model_dump(mode="json").items() if v} if self.slurm else {}
        return ExecutionSettings("dask", self.workers, self.address, slurm, self.timeout)


class Configuration(_Section):
    """All of ``campaign.toml``."""

    campaign: CampaignSection
    model: ModelSection = Field(default_factory=ModelSection)
    acquisition: AcquisitionSection = Field(default_factory=AcquisitionSection)
    constraints: ConstraintsSection = Field(default_factory=ConstraintsSection)
    objectives: tuple[ObjectiveSection, ...] = ()
    stopping: StoppingSection = Field(default_factory=StoppingSection)
    costs: dict[str, CoreHours] = Field(
        default_factory=dict, description="Core-hours of a calculation, by fidelity; the campaign's own is fitted else."
    )
    labeler: LabelerSection = Field(default_factory=LabelerSection)
    dft: DftSection = Field(default_factory=DftSection)
    # how, not what: rounds neither keep it nor depend on it
    execution: ExecutionSection = Field(default_factory=ExecutionSection, exclude=True)
    store: StoreSection = Field(default_factory=StoreSection)

    @property
    def prior(self) -> str:
        """Cheaper estimate that members learn on top of: what may be queued beside, or ``[model] prior``."""
        return self.model.prior or next(iter(self.acquisition.fidelities), "")

    def labelers(self) -> dict[str, Configuration]:
        """For each fidelity that may be queued, the settings as if it were the campaign's own."""
        own = self.model_copy(update={"labeler": self.labeler.model_copy(update={"fidelities": {}})})
        return {self.campaign.fidelity: own} | {
            name: self.model_copy(
                update={"campaign": self.campaign.model_copy(update={"fidelity": name}), "labeler": section}
            )
            for name, section in self.labeler.fidelities.items()
        }

    @property
    def stopping_rule(self) -> StoppingRule:
        """As the engine takes it."""
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
        if goal in ("target", "window") and function in ("GIBBON", "qMES", "qKG"):
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
            raise ValueError(f"[acquisition] fidelities = [{own!r}] is that of the campaign; name a cheaper one")
        for name in cheaper:
            if name not in self.costs:
                raise ValueError(
                    f"{known}, and what a calculation of it costs is not said; give [costs] {name} = CORE_HOURS"
                )
            if self.model.prior not in ("", name):
                raise ValueError(
                    f"[model] prior = {self.model.prior!r}, and {known}, which members stand on then; take prior out"
                )
        if cheaper and self.model.head != "gp":
            raise ValueError(f"{known}, which Gaussian processes learn from only; set [model] head = 'gp'")
        tables = [*self.labeler.fidelities, *(n for s in self.labeler.fidelities.values() for n in s.fidelities)]
        if unknown := [name for name in tables if name not in cheaper]:
            raise ValueError(f"[labeler.{unknown[0]}]: {known}; add {unknown[0]!r} there, or take the section out")
        if unknown := [name for name in self.costs if name not in (own, *cheaper)]:
            raise ValueError(
                f"[costs] {unknown[0]}: the campaign queues {', '.join((own, *cheaper))}; name one of these"
            )
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
        if not section.property.startswith("kappa") or section.unit != KAPPA_UNIT:
            raise ValueError(
                f"labeler {kind!r} gives kappa in {KAPPA_UNIT}, [campaign] asks for {section.property} in "
                f"{section.unit!r}; change [campaign] or the labeler"
            )
        if section.fidelity in ("dft", "experiment"):
            raise ValueError(
                f"labeler {kind!r} calculates with a potential, which is no {section.fidelity!r}; set [campaign] "
                f"fidelity = {'agl' if kind == 'agl' else 'mlip'!r}"
            )


def read_configuration(path: Path) -> Configuration:
    """Read and check a ``campaign.toml``.

    Raises
    ------
    ConfigurationError
        If it is missing or no TOML, or with every unknown key (and the nearest known one) and every bad value.
    """
    if not path.is_file():
        raise ConfigurationError(f"{path} does not exist; make a campaign with `kappascout init {path.parent}`")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text: {error}; save it as UTF-8") from error
    return parse_configuration(text, str(path))


def parse_configuration(text: str, where: str) -> Configuration:
    """Check the text of a ``campaign.toml``; ``where`` names it in messages."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"{where} is no valid TOML: {error}; text stands in double quotes") from error
    return check_configuration(data, where)


def check_configuration(data: dict[str, Any], where: str) -> Configuration:
    """Check settings given as a dictionary; ``where`` names them in messages."""
    try:
        # as JSON, because strict types then still admit a list for a tuple and a table for a section
        return Configuration.model_validate_json(json.dumps(data, default=str))
    except ValidationError as error:
        problems = [_explain(problem) for problem in error.errors()]
        raise ConfigurationError(f"{where}: " + "; ".join(problems)) from error


def round_settings(record: RoundRecord) -> Configuration:
    """Read the settings that a round began with, whatever ``campaign.toml`` says by now."""
    return check_configuration(record.manifest["settings"], f"manifest of round {record.number}")


def _check_goal(section: CampaignSection | ObjectiveSection) -> None:
    """Refuse a target or a window without its goal or the other way round, and values without a logarithm."""
    for name, value in (("target", section.target), ("window", section.window)):
        if section.goal == name and value is None:
            example = "target = VALUE" if name == "target" else "window = [LOW, HIGH]"
            raise ValueError(f"goal = {name!r} needs {example}")
        if section.goal != name and value is not None:
            raise ValueError(f"{name} is of goal = {name!r}, and goal is {section.goal!r}; change one")
    if section.window and not section.window[0] < section.window[1]:
        low, high = section.window
        raise ValueError(f"window = [{low:g}, {high:g}] holds nothing; give the lower end first")
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


def _known_functions(names: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse acquisition functions that do not exist, naming the nearest."""
    from engine.acquire.functions import acquisition_function
    from engine.exceptions import AcquisitionError

    try:
        return tuple(acquisition_function(name).name for name in names)
    except AcquisitionError as error:
        raise ValueError(str(error)) from error


def _explain(problem: Any) -> str:
    """Say one problem with the key's place as it stands in the file."""
    places = [str(part) for part in problem["loc"]] or [""]
    *section, key = places[:1] + places[2:] if places[:2] == ["labeler", "fidelities"] else places
    kind, message = problem["type"], problem["msg"].removeprefix("Value error, ")
    if kind == "value_error" and isinstance(problem["input"], dict):
        return f"[{'.'.join([*section, key])}]: {message}" if key else message
    name = f"[{'.'.join(section)}] {key}" if section else f"[{key}]"
    if kind == "extra_forbidden":
        return f"unknown key {name}; {_hint(section, key)}"
    return f"{name} is missing" if kind == "missing" else f"{name} = {problem['input']!r}: {message}"


def _hint(section: list[str], key: str) -> str:
    known = _known_keys(section)
    if close := difflib.get_close_matches(key, known, n=1):
        return f"did you mean {close[0]!r}?"
    homes = [f"[{home}]" for home in Configuration.model_fields if key in _known_keys([home])]
    return f"it belongs to {' or '.join(homes)}" if homes else f"known here: {', '.join(known)}"


def _known_keys(section: list[str]) -> list[str]:
    model: Any = Configuration
    for part in section:
        if field := model.model_fields.get(part):  # else an item of the table or list before
            model = _section_in(field.annotation)
    return list(model.model_fields)


def _section_in(kind: Any) -> Any:
    """Find the section in an annotation such as ``X | None`` or ``dict[str, X]``; an empty one if there is none."""
    if hasattr(kind, "model_fields"):
        return kind
    return next((found for part in get_args(kind) if (found := _section_in(part)) is not _Section), _Section)
