"""Which labels are accepted and which train: ``[labels]``; where they come from: ``[labeler]`` and ``[dft]``."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from campaigns.configuration.constraints import Range
from campaigns.configuration.incar import Stage, Tags, Value, checked_incar
from campaigns.configuration.section import Section

NEW_PRESET = "phonon-pbesol"
"""``[dft] preset`` of a new campaign."""


class LabelsSection(Section):
    """Which labels are accepted, and which of several for one material trains the model."""

    limits: dict[str, Range] = Field(
        default_factory=dict,
        examples=[{"kappa_300K": {"min": 0.01, "max": 5000.0}}],
        description="Allowed values by property; a label outside is refused. Without limits only impossible values "
        "are.",
    )
    prefer: Literal["latest"] | tuple[str, ...] = Field(
        default="latest",
        description="Which of a material's labels trains: the latest, or that of the first of these methods, e.g. "
        '["phono3py LBTE", "phono3py RTA"]; labels of any other method come after them. With [dft] preset a method '
        'names the functional: "phono3py RTA, PBEsol".',
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
            raise ValueError("give 'latest', or methods as named in labels, e.g. ['phono3py LBTE', 'phono3py RTA']")
        if len({*named}) < len(named):
            raise ValueError("a method is named twice; keep the first")
        return "latest" if given == "latest" else tuple(named)


class LabelerSection(Section):
    """Where labels come from."""

    kind: Literal["dft", "replay", "agl", "phonons"] = Field(
        default="dft",
        description="dft: waits for imported results; replay: answers from labelled records; agl, phonons: calculates "
        'here (set [campaign] fidelity = "agl" or "mlip").',
    )
    source: str = Field(
        default="",
        examples=["labelled.jsonl.gz"],
        description='replay: file of labelled records, relative to this directory, or "reference" for shipped ones.',
    )
    field: str = Field(
        default="",
        examples=["kappa_300K_W_mK"],
        description="replay: field of the records' properties that holds the answer.",
    )
    potential: str = Field(
        default="",
        examples=["TensorNet-MatPES-r2SCAN-v2025.1-PES"],
        description="agl, phonons: folder (relative to this directory) or name of a MatGL potential, or a classical "
        "one: "
        "rigid-ion:NaCl, lennard-jones:Ar, tersoff:Si; or family:model of a library of potentials (mace:medium-mpa-0, "
        "sevennet:7net-0, ...); or package.module:Callable, which makes an ASE calculator.",
    )
    potential_python: str = Field(
        default="",
        examples=["/path/to/environment/bin/python"],
        description="agl, phonons: Python of another environment, in which the library of the potential is installed; "
        "the potential runs in a process of it.",
    )
    potential_options: dict[str, Any] = Field(
        default_factory=dict,
        examples=[{"asap_cutoff": True}],
        description="agl, phonons: keyword arguments of the callable or family that makes an ASE calculator.",
    )
    born: str = Field(
        default="",
        examples=["born"],
        description="phonons: folder (relative to this directory) of Born charges for the non-analytical correction of "
        "polar crystals: ID.BORN beside ID.POSCAR, or ID/BORN beside ID/POSCAR; materials without are calculated "
        "without.",
    )
    workers: int = Field(default=1, ge=1, description="agl, phonons: processes of one thread each.")
    devices: tuple[str, ...] = Field(
        default=(),
        strict=False,  # the validator before this one makes a list of it
        examples=[("cuda:0", "cuda:1")],
        description="agl, phonons: devices of this machine, one process each in place of workers, with the potential "
        "on it.",
    )
    time_limit: float = Field(
        default=3600.0,
        gt=0,
        description="agl, phonons: seconds for one material; a longer calculation fails as timed_out.",
    )
    max_retries: int = Field(
        default=2,
        ge=0,
        description="How often a calculation that failed by the machine is repeated, by `kappascout watch` and `queue "
        "retry`.",
    )
    settings: dict[str, Any] = Field(
        default_factory=dict,
        examples=[{"strain": 0.1}],
        description="Settings of the calculation: agl: points, strain, reach, floor, ...; phonons: min_length, "
        "displacements, floor, ...",
    )

    fidelities: dict[str, LabelerSection] = Field(
        default_factory=dict,
        examples=[{"agl": {"kind": "agl", "potential": "TensorNet-MatPES-r2SCAN-v2025.1-PES"}}],
        description="Where labels of a lower fidelity come from, with keys as in [labeler].",
    )

    @model_validator(mode="before")
    @classmethod
    def _tables_are_fidelities(cls, given: object) -> object:
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
    def _a_process_a_device(self) -> LabelerSection:
        if self.devices and self.workers not in (1, len(self.devices)):
            raise ValueError(
                f"workers = {self.workers} and {len(self.devices)} devices contradict each other: each device has one "
                "process; leave out workers"
            )
        return self

    @model_validator(mode="after")
    def _charges_are_for_phonons(self) -> LabelerSection:
        if self.born and self.kind == "agl":
            raise ValueError("born is for kind 'phonons': the Debye model of kind 'agl' has no phonons; leave it out")
        return self

    @model_validator(mode="after")
    def _replay_has_a_source(self) -> LabelerSection:
        if self.kind == "replay" and not self.source:
            raise ValueError("kind 'replay' needs source = 'FILE' (and field = 'PROPERTY') or source = 'reference'")
        return self


class DftSection(Section):
    """What `kappascout queue export --format phono3py` (or vasp) writes."""

    relax: bool = Field(
        default=True,
        description="Relax first and displace the relaxed cell, on the cluster; false: displace the crystal as it "
        "is, for "
        "structures that were relaxed with the same settings.",
    )
    min_length: float = Field(
        default=10.0,
        gt=0,
        description="Angstrom between opposite faces of the supercells; use 12 or more for publication.",
    )
    fc2_min_length: float | None = Field(
        default=None,
        gt=0,
        examples=[15.0],
        description="Angstrom, the same for larger second-order supercells; without it both orders share one.",
    )
    displacements: Literal["random", "systematic"] = Field(
        default="random",
        description="random: tens of supercells, fitted by symfc; systematic: every pair that symmetry leaves.",
    )
    amplitude: float = Field(default=0.03, gt=0, le=0.5, description="Length of a displacement in Angstrom.")
    pair_cutoff: float | None = Field(
        default=None,
        gt=0,
        examples=[5.0],
        description="Angstrom; third-order force constants between atoms farther apart are left out.",
    )
    mesh_length: float = Field(
        default=60.0, gt=0, description="Density of the q-point mesh in Angstrom (60 is 19 x 19 x 19 for silicon)."
    )
    solver: Literal["rta", "lbte"] = Field(
        default="rta", description="Solution of the Boltzmann transport equation: rta | lbte."
    )
    isotope: bool = Field(default=False, description="Whether phonons scatter from natural isotopes.")
    temperatures: tuple[float, ...] = Field(
        default=(300.0,),
        min_length=1,
        description="Kelvin; the temperature of the campaign's property is always included.",
    )
    born: Literal["auto", "always", "never"] = Field(
        default="auto",
        description="Born charges and dielectric tensor: auto: for polar insulators; always | never.",
    )
    imaginary_tolerance: float = Field(
        default=0.1, ge=0, description="THz; a result with a mode further below zero is a failure."
    )
    max_supercells: int = Field(
        default=1000,
        ge=1,
        description="Materials that need more displaced supercells are neither queued nor exported.",
    )
    max_atoms: int = Field(
        default=400, ge=1, description="Materials whose supercell has more atoms are neither queued nor exported."
    )
    max_core_hours: float | None = Field(
        default=None,
        gt=0,
        examples=[20000.0],
        description="Materials that are expected to take more core-hours are neither queued nor exported.",
    )
    core_hours: float = Field(
        default=10.0,
        gt=0,
        description="Core-hours of one supercell of 100 atoms, growing with the square of the atoms, until a "
        "calculation of the campaign is finished with its cost; then they are learned.",
    )
    confirm_core_hours: float = Field(
        default=100_000.0,
        gt=0,
        description="`queue export` of more core-hours than this in all asks first, or needs --yes.",
    )
    preset: Literal["phonon-pbesol", "phonon-pbe"] | None = Field(
        default=None,
        examples=[NEW_PRESET],
        description="Named settings of VASP: phonon-pbesol | phonon-pbe, without +U; the keys below replace single "
        "ones of it. Without it: the Materials Project's PBE, +U in oxides and fluorides.",
    )
    potcar_release: Literal["PBE_52", "PBE_54", "PBE_64"] | None = Field(
        default=None,
        examples=["PBE_54"],
        description="Release of your POTCAR files: PBE_52 | PBE_54 (of the presets) | PBE_64; gives the names of "
        "pseudopotentials, and the job compares the TITEL of each before VASP starts.",
    )
    magnetism: Literal["refuse", "ferromagnetic", "nonmagnetic"] | None = Field(
        default=None,
        examples=["refuse"],
        description="Where the relaxation finds a moment: refuse (of the presets): the entry fails, as its magnetic "
        "order is unknown | ferromagnetic; without a moment, later stages have no spin. nonmagnetic: none has. MAGMOM "
        "in incar goes before it.",
    )
    moments: dict[str, tuple[float, ...]] = Field(
        default_factory=dict,
        examples=[{"mp-560902": (0.0, 0.0, 0.0, 0.0, 5.0, -5.0)}],
        description="Magnetic order by id of the material: Bohr magnetons of each atom of the exported POSCAR, "
        "repeated in supercells. An order must have the symmetry of the crystal, up to the sign of all moments.",
    )
    hubbard_u: Literal["never", "materials-project"] | None = Field(
        default=None,
        examples=["never"],
        description="never (of the presets) | materials-project: +U of some metals in oxides and fluorides.",
    )
    van_der_waals: Literal["never", "layered", "always"] | None = Field(
        default=None,
        examples=["layered"],
        description="Which crystals get the DFT-D3(BJ) correction: never (of phonon-pbesol) | layered (of phonon-pbe): "
        "where bonds extend in fewer than three dimensions | always.",
    )
    incar: dict[str, Value | Tags] = Field(
        default_factory=dict,
        examples=[{"GGA": "PS", "NCORE": 4, "relax": {"POTIM": 0.2}}],
        description="INCAR tags that replace those of pymatgen's MPRelaxSet and MPStaticSet; tables relax, born and "
        "forces "
        "hold tags of one stage. NSW, IBRION, ISIF, LREAL and LEPSILON define a stage: leave them out.",
    )
    potcar: dict[str, str] = Field(
        default_factory=dict,
        examples=[{"Ga": "Ga_d"}],
        description="Pseudopotential by element in place of MPRelaxSet's or the release's; POTCAR files are never "
        "written, only POTCAR.spec.",
    )
    vasp_command: str = Field(default="srun vasp_std", min_length=1, description="Command that starts VASP.")
    setup: str = Field(
        default="", examples=["module load vasp phono3py"], description="Shell lines before the work starts."
    )
    slurm: dict[str, str | int] = Field(
        default_factory=dict,
        examples=[{"time": "24:00:00", "nodes": 1, "ntasks-per-node": 32, "partition": "standard"}],
        description="Options of sbatch.",
    )
    slurm_template: str = Field(
        default="",
        examples=["job.sh.j2"],
        description="Jinja template of your own for the job script, relative to this directory.",
    )

    def incar_of(self, stage: Stage) -> Tags:
        """INCAR tags of a stage: those of all stages, overridden by its own."""
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
