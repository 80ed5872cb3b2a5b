"""Files that compute a queue entry: supercells, mesh, VASP inputs, scripts.

Their number and price are those of the ranking, see :class:`campaigns.pool.costs.Costs`.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from campaigns.exceptions import ExchangeError, TooLargeError
from campaigns.exchange.dft_method import method_of
from campaigns.exchange.manifest import (
    ENTRY,
    SCHEMA,
    Entry,
    EntrySettings,
    Matrix,
    Method,
    Phonons,
    Predicted,
    Work,
    meaning_sha256,
    text_sha256,
)
from campaigns.exchange.presets import choices_of
from campaigns.exchange.pseudopotentials import pseudopotentials, remarks
from campaigns.exchange.scripts import run_script
from campaigns.exchange.spin import magnetic_elements, require_order, with_moments
from campaigns.exchange.vasp import is_polar, ordered_structure, poscar, vasp_inputs
from campaigns.pool.costs import SizeLimits
from campaigns.property_names import named_temperature
from engine.materials.crystal import Crystal, isotopes_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pymatgen.core import Structure

    from campaigns.configuration import CampaignSection, DftSection
    from campaigns.exchange.vasp import VaspInputs
    from campaigns.pool.costs import Costs, Price
    from db.records import MaterialRecord, QueueEntryRecord
    from engine.physics.cost import Workload

Workflow = Literal["phono3py", "vasp"]
PACKAGES = ("kappascout", "phono3py", "phonopy", "symfc", "pymatgen", "spglib")


@dataclass(frozen=True)
class Calculation:
    """Planned calculation of one entry, not yet written."""

    entry: Entry
    structure: Structure
    dft: DftSection
    inputs: dict[str, str]
    """VASP's files by path."""

    def write(self, folder: Path) -> None:
        """Write all of it to ``folder``, which appears when complete; remains of an earlier attempt are removed."""
        partial = folder.with_name(f".{folder.name}.partial")
        if partial.exists():
            shutil.rmtree(partial)
        try:
            for path, text in self.files():
                target = partial / path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text, encoding="utf-8")
            partial.replace(folder)
        finally:
            if partial.exists():
                shutil.rmtree(partial)

    def files(self) -> Iterator[tuple[str, str]]:
        """Every file by path, text by text."""
        settings = self.entry.settings
        text = poscar(self.structure)
        yield "POSCAR", text
        yield "structure.cif", str(self.structure.to(fmt="cif"))
        if settings.relax:
            yield "relax/POSCAR", text
        yield from self.inputs.items()
        if settings.phonons and not settings.relax:
            yield from _displaced(self.structure, settings.phonons)
        elements = list(dict.fromkeys(site.specie.symbol for site in self.structure))
        chosen = pseudopotentials(elements, self.dft)
        yield "run.sh", run_script(self.entry.formula, self._spacegroup(), settings, self.dft, chosen)
        yield ENTRY, self.entry.to_json()

    def _spacegroup(self) -> int:
        """Space group that phono3py finds, within phono3py's own tolerance."""
        if self.entry.settings.phonons is None:
            return self.entry.spacegroup
        from engine.materials.identity import standardise
        from engine.physics.supercells import SYMPREC

        return standardise(Crystal.from_structure(self.structure), SYMPREC)[1]


@dataclass(frozen=True)
class Plan:
    """What the calculations of an export have in common."""

    campaign: CampaignSection
    dft: DftSection
    workflow: Workflow
    costs: Costs
    """Prices of calculations, by the rule of the ranking."""


def plan_calculation(entry: QueueEntryRecord, material: MaterialRecord, plan: Plan) -> Calculation:
    """Plan the calculation of a queue entry.

    Raises
    ------
    TooLargeError
        If it takes more supercells, larger ones or more core-hours than ``[dft]`` allows.
    ExchangeError
        If an element has no pseudopotential, a package is missing, or the material has other than natural isotopes.
    """
    campaign, dft = plan.campaign, plan.dft
    if isotopes := isotopes_of(material.bucket):
        raise ExchangeError(natural_masses(isotopes))
    structure = ordered_structure(Crystal.from_dict(material.structure))
    crystal = Crystal.from_structure(structure)
    pseudopotentials(list(dict.fromkeys(crystal.symbols)), dft)  # refused before displacements are counted
    full = plan.workflow == "phono3py"
    workload = _workload(material, crystal, plan) if full else None
    phonons = _decide(crystal, workload, campaign, dft) if workload else None
    relax = dft.relax or not full
    born = full and (dft.born == "always" or (dft.born == "auto" and is_polar(crystal, material.properties)))
    ordered = with_moments(structure, dft.moments.get(entry.material_id))
    inputs, notes, method = _inputs(ordered, relax, born, phonons, dft)
    settings = EntrySettings(
        relax=relax,
        born=born,
        phonons=phonons,
        inputs={path: meaning_sha256(Path(path).name, text) for path, text in inputs.items()},
        method=method,
    )
    record = Entry(
        schema_version=SCHEMA,
        campaign=campaign.name,
        property=campaign.property,
        fidelity=entry.fidelity,
        round=entry.round or 0,
        rank=entry.rank,
        id=entry.material_id,
        formula=material.formula,
        spacegroup=material.spacegroup,
        content_hash=material.content_hash,
        poscar_sha256=text_sha256(poscar(structure)),
        predicted=Predicted(
            mean=entry.predicted_mean,
            lower=entry.predicted_lower,
            upper=entry.predicted_upper,
            log10_mean=entry.log10_mean,
            log10_std=entry.log10_std,
        ),
        acquisition=entry.acquisition_value,
        expected_cost=entry.expected_cost,
        reason=entry.reason,
        work=_work(plan.costs.priced(workload)) if workload else None,
        settings=settings,
        settings_sha256=settings.sha256,
        notes=notes,
        versions=_versions(),
    )
    return Calculation(record, structure, dft, inputs)


def natural_masses(isotopes: str) -> str:
    """Reason why a material with these isotopes is not calculated, as text."""
    return (
        f"it holds {isotopes}, and calculations use the natural masses of the elements: they would give the value of "
        "another material; calculate it with its own masses and import the label"
    )


def _workload(material: MaterialRecord, crystal: Crystal, plan: Plan) -> Workload:
    """Count the displaced supercells; too many, and those too large, are refused."""
    _require_phono3py(crystal)
    workload = plan.costs.workload(material.content_hash, crystal)
    if reason := SizeLimits.of(plan.dft).exceeded(plan.costs.priced(workload)):
        raise TooLargeError(reason)
    return workload


def _decide(crystal: Crystal, workload: Workload, campaign: CampaignSection, dft: DftSection) -> Phonons:
    """Choose supercells and mesh."""
    from engine.physics.supercells import supercell_matrix

    matrix = supercell_matrix(crystal, dft.min_length)
    fc2_matrix = supercell_matrix(crystal, dft.fc2_min_length) if dft.fc2_min_length else None
    random = dft.displacements == "random"
    return Phonons(
        supercell=_matrix(matrix),
        fc2_supercell=None if fc2_matrix is None else _matrix(fc2_matrix),
        displacements=dft.displacements,
        snapshots=workload.calls if random else None,
        fc2_snapshots=workload.fc2_calls if random and fc2_matrix is not None else None,
        # phono3py reads 0 as no seed, and seeds have 32 bits
        seed=1 + campaign.seed % (2**32 - 1),
        amplitude=dft.amplitude,
        pair_cutoff=dft.pair_cutoff,
        mesh=_mesh(crystal, dft.mesh_length),
        solver=dft.solver,
        isotope=dft.isotope,
        temperatures=tuple(sorted({*dft.temperatures, named_temperature(campaign.property)})),
        imaginary_tolerance=dft.imaginary_tolerance,
    )


def _work(price: Price) -> Work:
    assert price.core_hours is not None  # [dft] core_hours states them before they are learned
    return Work(supercells=price.supercells, atoms=price.atoms, core_hours=price.core_hours)


def _inputs(
    structure: Structure, relax: bool, born: bool, phonons: Phonons | None, dft: DftSection
) -> tuple[dict[str, str], tuple[str, ...], Method | None]:
    """VASP's inputs by path, notes on them, and their method."""
    is_layered = _is_layered(structure, dft)
    calculations: dict[str, VaspInputs] = {}
    if relax:
        calculations["relax"] = vasp_inputs(structure, "relax", dft, is_layered=is_layered, is_relaxed=relax)
    if born:
        calculations["born"] = vasp_inputs(structure, "born", dft, is_layered=is_layered, is_relaxed=relax)
    if phonons:
        repeated = {"forces": phonons.supercell, "forces_fc2": phonons.fc2_supercell}
        calculations |= {
            folder: vasp_inputs(_repeated(structure, matrix), "forces", dft, is_layered=is_layered, is_relaxed=relax)
            for folder, matrix in repeated.items()
            if matrix is not None
        }
    spins = {folder: made.spin for folder, made in calculations.items()}
    require_order(spins, magnetic_elements(structure, choices_of(dft)), choices_of(dft))
    chosen = pseudopotentials(list(dict.fromkeys(site.specie.symbol for site in structure)), dft)
    method, of_method = method_of(calculations, chosen, dft)
    notes = [note for made in calculations.values() for note in made.notes]
    notes += [*remarks(chosen, dft), *of_method]
    files = {f"{folder}/{name}": text for folder, made in calculations.items() for name, text in made.files.items()}
    return files, tuple(dict.fromkeys(notes)), method


def _is_layered(structure: Structure, dft: DftSection) -> bool:
    """Whether bonds extend in fewer than three dimensions; computed only where it matters."""
    if choices_of(dft).van_der_waals != "layered":
        return False
    from engine.materials.dimensionality import dimensionality

    return dimensionality(Crystal.from_structure(structure)) < 3


def _repeated(structure: Structure, matrix: Matrix) -> Structure:
    """The supercell; pymatgen's matrices have the vectors in rows."""
    return structure.make_supercell(np.array(matrix).T, in_place=False)


def _displaced(structure: Structure, phonons: Phonons) -> Iterator[tuple[str, str]]:
    """Displaced supercells and the file that lists them for phono3py, as ``phono3py-init`` makes them."""
    from phono3py import Phono3py
    from phonopy.interface.vasp import get_vasp_structure_lines

    from engine.physics.supercells import SYMPREC, to_phonopy

    phono3py = Phono3py(
        to_phonopy(Crystal.from_structure(structure)),
        np.array(phonons.supercell),
        primitive_matrix="P",
        phonon_supercell_matrix=None if phonons.fc2_supercell is None else np.array(phonons.fc2_supercell),
        symprec=SYMPREC,
        calculator="vasp",
        log_level=0,
    )
    phono3py.generate_displacements(
        distance=phonons.amplitude,
        cutoff_pair_distance=phonons.pair_cutoff,
        number_of_snapshots=phonons.snapshots,
        random_seed=phonons.seed,
    )
    sets = [("disp", phono3py.supercells_with_displacements)]
    if phonons.fc2_supercell is not None:
        if phonons.fc2_snapshots:
            phono3py.generate_fc2_displacements(
                distance=phonons.amplitude, number_of_snapshots=phonons.fc2_snapshots, random_seed=phonons.seed
            )
        sets.append(("disp_fc2", phono3py.phonon_supercells_with_displacements))
    for name, cells in sets:
        for number, cell in enumerate(cells, start=1):
            if cell is not None:  # beyond the pair cutoff
                yield f"{name}-{number:05d}/POSCAR", "\n".join(get_vasp_structure_lines(cell))
    yield "phono3py_disp.yaml", str(phono3py.to_phono3py_yaml())


def _mesh(crystal: Crystal, length: float) -> tuple[int, int, int]:
    """Divisions of the reciprocal vectors, phonopy's rule; equal vectors are divided equally."""
    reciprocal = np.linalg.norm(np.linalg.inv(crystal.lattice), axis=0)
    a, b, c = (max(1, int(np.rint(n))) for n in np.round(length * reciprocal, 6))
    return a, b, c


def _matrix(matrix: NDArray[np.int64]) -> Matrix:
    (a, b, c), (d, e, f), (g, h, i) = matrix.tolist()
    return (a, b, c), (d, e, f), (g, h, i)


def _require_phono3py(crystal: Crystal) -> None:
    if importlib.util.find_spec("phono3py") is None:
        raise ExchangeError("phono3py is not installed; `pip install 'kappascout[phonons]'`, or export as vasp or cif")
    from phonopy.structure.atomic_data import get_atomic_data

    masses = get_atomic_data().atom_data
    if unknown := [s for s, z in zip(crystal.symbols, crystal.numbers, strict=True) if masses[z][3] is None]:
        raise ExchangeError(f"phono3py has no mass for {unknown[0]}; export this entry as vasp or cif")


@lru_cache(maxsize=1)
def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
