"""How far a potential's conductivities lie from first principles: the 103 binary compounds of kappa_SRME.

Rock salt, zincblende and wurtzite compounds with conductivities of PBE (B. Póta, P. Ahlawat, G. Csányi, M. Simoncelli,
arXiv:2408.00755): three-phonon scattering in the relaxation-time approximation, coherence, natural isotopes; with and
without the long-range fields of polar crystals. Their score kappa_SRME compares the contributions of single modes; the
files have totals, so that the score here is the symmetric relative error of totals, ``2 |k - r| / (k + r)``, between 0
and 2, which is never larger than kappa_SRME. A compound without a conductivity (imaginary modes, broken symmetry) has
the worst score, 2, as in the source. A potential has no Born charges: the values without long-range fields are what it
is compared with first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

import numpy as np

from campaigns.exceptions import CampaignError
from campaigns.files import write_whole
from campaigns.studies.data import SOURCES, Say, read_sources
from campaigns.studies.results import CODE_VERSION, Result, digest, markdown
from engine.metrics.accuracy import WORST_SYMMETRIC_ERROR, accuracy, symmetric_error
from engine.physics.outcome import Calculated, Outcome
from engine.physics.phonon_settings import PhononSettings

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.materials.crystal import Crystal, Material
    from engine.physics.potential import Potential

    Array = NDArray[np.float64]

NAME = "srme"
WITHOUT_POLAR = "kappa_300K_noNAC_W_mK"
"""Property of first principles without long-range fields of polar crystals, beside that of :data:`SOURCES`."""
STRUCTURES = {225: "rock salt", 216: "zincblende", 186: "wurtzite"}
"""By space group, for crystals of two kinds of atoms; others are called by their space group."""
SUPERCELL = 3.3
"""Shortest distance between opposite faces of a supercell, in cube roots of the volume per atom: as the source at third
order 2 x 2 x 2 conventional cells of rock salt and zincblende (64 atoms), 3 x 3 x 2 of wurtzite (72)."""
PACKAGES = ("phono3py", "phonopy", "symfc", "ase")
"""Packages whose versions decide a conductivity, beside that of the potential."""
PUBLISHED = {
    "PET-OAM-XL": 0.12, "NequIP-OAM": 0.13, "eSEN-30M-OAM": 0.17, "SevenNet-Omni": 0.19, "ORB v3 conservative": 0.21,
    "Nequix": 0.31, "SevenNet-MF-ompa": 0.32, "MACE-MPA-0": 0.41, "SevenNet-l3i5": 0.55, "MatterSim": 0.58,
    "SevenNet-0": 0.76, "M3GNet": 1.4, "CHGNet": 1.7,
}  # fmt: skip
"""kappa_SRME of Matbench Discovery (November 2026): mean over modes and compounds, lower is better."""


@dataclass(frozen=True)
class SrmeSettings:
    """All that decides the study besides data and potential."""

    compounds: int | None = None
    """As many of each structure, evenly spread over its conductivities; all if not given."""
    time_limit: float = 3600.0
    """Seconds a compound."""
    phonons: PhononSettings = field(
        default_factory=lambda: PhononSettings(isotopes=True, second_attempts=("larger_supercell",))
    )
    """The references have isotopes and coherence, and larger supercells for second order; ``min_length`` is replaced,
    see :data:`SUPERCELL`."""


QUICK = SrmeSettings(compounds=4)


_ERRORS = f"""kappa in W/(m K) at 300 K. Error: symmetric relative error `2 |k - r| / (k + r)`, mean over compounds.
A failed compound has the worst error, {WORST_SYMMETRIC_ERROR:g}, and in MAE ln that of the worst other one.
"""


class _Cell(TypedDict):
    """What is kept of one compound's calculation."""

    kappa: float | None
    failure: str
    seconds: float
    details: Mapping[str, object]


def run(data: Path, work: Path, say: Say, potential: str, settings: SrmeSettings | None = None) -> Result:
    """Calculate the compounds of the file in ``data`` with a potential, going on from what is in ``work``.

    A compound that ran into the time limit, or whose process died, is tried again when the study is run again.

    Raises
    ------
    CampaignError
        If no potential is named, or the file has no reference without polar fields.
    PotentialError
        If the potential cannot be loaded, or is wrong on known compounds.
    """
    if not potential:
        raise CampaignError(
            f"study {NAME} measures an interatomic potential; name it by --potential, as in `kappascout estimate`"
        )
    study = _Study(settings or SrmeSettings(), data, work, say, potential)
    study.calculate()
    return study.result()


class _Study:
    """Compounds, and what a potential makes of them."""

    def __init__(self, settings: SrmeSettings, data: Path, work: Path, say: Say, potential: str):
        from engine.physics.potentials import load_potential

        self.settings, self.say, self.name = settings, say, potential
        self.potential = load_potential(potential).describe()
        found = read_sources(data, [NAME], say)[NAME]
        self.compounds = _chosen(found, settings.compounds)
        self.references = np.array([_references(one) for one in self.compounds])
        self.files = {one.id: work / "cells" / self._file_name(one) for one in self.compounds}
        self.cells: dict[str, _Cell] = {
            key: json.loads(path.read_text()) for key, path in self.files.items() if path.is_file()
        }

    def calculate(self) -> None:
        """Calculate what is not known yet, on all cores; each compound is written when it is done."""
        from engine.execution import cores
        from engine.physics.workers import calculate_all

        missing = [(one.id, one.crystal) for one in self.compounds if one.id not in self.cells]
        calculation = partial(calculate_compound, settings=self.settings.phonons)
        results = calculate_all(missing, calculation, self.name, cores(), self.settings.time_limit)
        with closing(results):  # ends the processes, also after an error
            for count, finished in enumerate(results, 1):
                cell = _cell(finished.outcome, finished.wall_seconds)
                self.cells[finished.key] = cell
                if not _differs_next_time(finished.outcome):
                    write_whole(self.files[finished.key], json.dumps(cell))
                words = f"kappa {cell['kappa']:.3g} W/(m K)" if cell["kappa"] else cell["failure"]
                self.say(f"{count} of {len(missing)}, {finished.key}: {words} ({finished.wall_seconds:.0f} s)")

    def result(self) -> Result:
        """Scores of all compounds, tables and facts."""
        cells = [self.cells[one.id] for one in self.compounds]
        kappa = np.array([cell["kappa"] or np.nan for cell in cells])
        figures = [_errors(kappa, reference) for reference in self.references.T]
        rows = [
            {
                "potential": self.name, "compound": one.id, "structure": _structure(one),
                "sre": float(figures[0].symmetric[row]), "sre_polar": float(figures[1].symmetric[row]),
                "mae_ln": _known(figures[0].size[row]), "bias_ln": _known(figures[0].ln_ratio[row]),
                "failed": float(np.isnan(kappa[row])),
            }
            for row, one in enumerate(self.compounds)
        ]  # fmt: skip
        compounds = {one.id: cell for one, cell in zip(self.compounds, cells, strict=True)}
        facts = {"potential": self.potential, "compounds": compounds}
        seconds = sum(cell["seconds"] for cell in cells)
        return Result(NAME, rows, self._tables(kappa), facts, asdict(self.settings), seconds, self._reductions())

    def _file_name(self, one: Material) -> str:
        """File of a compound: everything that decides its conductivity is in the hash."""
        decides = {
            "crystal": one.crystal.to_dict(),
            "potential": self.potential,
            "phonons": asdict(self.settings.phonons),
            "supercell": SUPERCELL,
            "versions": {package: version(package) for package in PACKAGES},
        }
        return f"{NAME}-{one.formula}-{digest(decides, CODE_VERSION)[:16]}.json"

    def _reductions(self) -> list[str]:
        s, phonons = self.settings, self.settings.phonons
        chosen = f": {s.compounds} of each structure, evenly spread over its conductivities" if s.compounds else ""
        return [
            f"Potential {self.name}: {', '.join(f'{k} {v}' for k, v in self.potential.items() if k != 'name')}.",
            f"{len(self.compounds)} compounds{chosen}.",
            "Supercells of 64 atoms (wurtzite 72) for second and third order (larger ones for second order in the "
            f"source), {phonons.displacements} displacements of {phonons.distance} Angstrom.",
            "References are totals, so that the error is that of totals; kappa_SRME, that of modes, is never smaller.",
        ]

    def _tables(self, kappa: Array) -> str:
        structures = np.array([_structure(one) for one in self.compounds])
        parts = {"all": np.ones(len(kappa), dtype=bool)}
        parts |= {name: structures == name for name in dict.fromkeys(structures.tolist())}
        head = ["", "compounds", "failed", "error", "with polar fields", "MAE ln", "bias ln", "Spearman"]
        body = [_scores(name, kappa[rows], self.references[rows]) for name, rows in parts.items()]
        average = np.exp(np.log(self.references[:, 0]).mean()) * np.ones(len(kappa))
        body.append(_scores("a constant: the geometric mean", average, self.references))
        published = [[name, f"{value:.2f}"] for name, value in PUBLISHED.items()]
        columns = ["compound", "structure", "first principles", "with polar fields", "potential", "error", "CPU-s"]
        return "\n".join(
            [
                _ERRORS,
                markdown(body, head),
                "Published kappa_SRME of potentials (Matbench Discovery, November 2026):\n",
                markdown(published, ["potential", "kappa_SRME"]),
                markdown(self._each(kappa, structures), columns),
            ]
        )

    def _each(self, kappa: Array, structures: NDArray[np.str_]) -> list[list[str]]:
        """A line of the table for every compound."""
        lines = []
        for row, one in enumerate(self.compounds):
            cell, (reference, polar) = self.cells[one.id], self.references[row]
            found = f"{kappa[row]:.3g}" if cell["kappa"] else f"- ({cell['failure'].partition(':')[0]})"
            error = float(symmetric_error(kappa[row], reference))
            line = [one.id, str(structures[row]), f"{reference:.3g}", f"{polar:.3g}", found, f"{error:.2f}"]
            lines.append([*line, f"{cell['seconds']:.0f}"])
        return lines


def calculate_compound(crystal: Crystal, potential: Potential, settings: PhononSettings) -> Outcome:
    """Conductivity of a compound as of :func:`engine.physics.phonons.calculate_kappa`, in the source's supercell."""
    from engine.physics.phonons import calculate_kappa

    length = SUPERCELL * (crystal.volume / len(crystal)) ** (1 / 3)
    return calculate_kappa(crystal, potential, replace(settings, min_length=length))


class _Errors(NamedTuple):
    """Errors of n conductivities against first principles."""

    symmetric: Array
    """Symmetric relative errors (n)."""
    ln_ratio: Array
    """Natural logarithm of their ratio to the reference (n); NaN where there is none."""

    @property
    def size(self) -> Array:
        """Absolute value of the logarithm (n); the largest one where there is none."""
        known = np.abs(self.ln_ratio)
        worst = np.nanmax(known) if np.isfinite(known).any() else np.nan
        return np.where(np.isnan(known), worst, known)


def _errors(kappa: Array, reference: Array) -> _Errors:
    return _Errors(symmetric_error(kappa, reference), np.log(kappa / reference))


def _known(value: float) -> float | None:
    """The value as JSON has it; None for NaN."""
    return float(value) if np.isfinite(value) else None


def _scores(name: str, kappa: Array, references: Array) -> list[str]:
    """A line of the table of scores."""
    plain, polar = (_errors(kappa, reference) for reference in references.T)
    known = np.isfinite(kappa)
    rank = accuracy(references[known, 0], kappa[known], scale="linear").spearman if known.sum() > 1 else None
    bias = float(plain.ln_ratio[known].mean()) if known.any() else None
    worth = [float(plain.symmetric.mean()), float(polar.symmetric.mean()), float(plain.size.mean())]
    figures = [*(f"{value:.3f}" for value in worth), "-" if bias is None else f"{bias:+.2f}"]
    return [name, str(len(kappa)), str(int((~known).sum())), *figures, "-" if rank is None else f"{rank:.3f}"]


def _chosen(compounds: Sequence[Material], of_each: int | None) -> list[Material]:
    """Compounds by structure and conductivity; ``of_each`` structure that many, evenly spread, or all."""
    found = []
    for structure in sorted({_structure(one) for one in compounds}):
        part = [one for one in compounds if _structure(one) == structure]
        part.sort(key=lambda one: (_references(one)[0], one.id))
        n = min(of_each or len(part), len(part))
        found += [part[int((k + 0.5) * len(part) / n)] for k in range(n)]
    return found


def _structure(one: Material) -> str:
    name = STRUCTURES.get(one.spacegroup)
    return name or f"space group {one.spacegroup}"


def _references(one: Material) -> tuple[float, float]:
    """First-principles conductivity without polar fields, and with them."""
    with_polar = float(one.properties[SOURCES[NAME].property])
    without = one.properties.get(WITHOUT_POLAR)
    if not isinstance(without, int | float) or not without > 0:
        raise CampaignError(
            f"{one.id} has no {WITHOUT_POLAR}, first principles without long-range fields of polar crystals; give the "
            f"file of {SOURCES[NAME].what} with that field"
        )
    return float(without), with_polar


def _cell(outcome: Outcome, wall_seconds: float) -> _Cell:
    kept = ("spacegroup", "volume_change", "n_supercells", "mesh", "mesh_converged", "min_frequency_THz")
    return {
        "kappa": outcome.kappa if isinstance(outcome, Calculated) else None,
        "failure": "" if isinstance(outcome, Calculated) else f"{outcome.reason}: {outcome.message}",
        "seconds": round(outcome.core_seconds or wall_seconds, 1),
        "details": {name: outcome.provenance[name] for name in kept if name in outcome.provenance},
    }


def _differs_next_time(outcome: Outcome) -> bool:
    """Whether a failure is that of the machine rather than the potential, so that the compound is tried again."""
    return not isinstance(outcome, Calculated) and outcome.reason in ("timed_out", "calculator_error")
