"""Which labels are taken and which train: ``[labels]``; where they come from: ``[labeler]`` and ``[dft]``."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from campaigns.configuration.constraints import Range
from campaigns.configuration.incar import Stage, Tags, Value, checked_incar
from campaigns.configuration.section import Section


class LabelsSection(Section):
    """Which labels are taken, and which of several trains."""

    limits: dict[str, Range] = Field(
        default_factory=dict, description="Allowed values by property name; a label beyond them is refused."
    )
    prefer: Literal["latest"] | tuple[str, ...] = Field(
        default="latest",
        description="Which of a material's labels trains: the latest, or methods in order of preference; labels of "
        "any other method come after them.",
    )

    @property
    def methods(self) -> tuple[str, ...]:
        """Methods in order of preference; none where the latest label trains."""
        return () if self.prefer == "latest" else self.prefer

    @field_validator("prefer", mode="before")
    @classmethod
    def _methods_are_named_once(cls, given: object) -> object:
        methods = given if isinstance(given, list | tuple) else ()
        named = [name for name in methods if isinstance(name, str) and name.strip()]
        if given != "latest" and (not named or len(named) < len(methods)):
            raise ValueError("give 'latest', or methods as labels name them, e.g. ['phono3py LBTE', 'phono3py RTA']")
        if len({*named}) < len(named):
            raise ValueError("a method stands there twice; keep the first")
        return "latest" if given == "latest" else tuple(named)


class LabelerSection(Section):
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


class DftSection(Section):
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
    incar: dict[str, Value | Tags] = Field(
        default_factory=dict,
        description="INCAR tags over those of pymatgen's input sets; tables relax, born and forces for one stage.",
    )
    potcar: dict[str, str] = Field(default_factory=dict, description="Pseudopotential by element, over MPRelaxSet's.")
    vasp_command: str = Field(default="srun vasp_std", min_length=1, description="How VASP is started.")
    setup: str = Field(default="", description="Shell lines before the work, e.g. module load.")
    slurm: dict[str, str | int] = Field(default_factory=dict, description="Options of sbatch, e.g. time = '24:00:00'.")
    slurm_template: str = Field(
        default="", description="Jinja template of the job script, relative to the campaign; empty: the shipped one."
    )

    def incar_of(self, stage: Stage) -> Tags:
        """INCAR tags of a stage: those of all, and over them its own."""
        common = {tag: value for tag, value in self.incar.items() if not isinstance(value, dict)}
        own = self.incar.get(stage, {})
        return common | own if isinstance(own, dict) else common

    @field_validator("incar", mode="before")
    @classmethod
    def _of_the_users(cls, given: object) -> object:
        return checked_incar(given) if isinstance(given, dict) else given

    @field_validator("temperatures")
    @classmethod
    def _above_zero(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if min(temperatures) <= 0:
            raise ValueError(f"{min(temperatures):g} K; give temperatures above zero")
        return temperatures
