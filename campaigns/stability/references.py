"""Reference phases of a convex hull from the user's files.

Crystals in any format that is read, entries as pymatgen and ``mp_api`` dump them (``ComputedStructureEntry``,
``ComputedEntry``), and tables of formula and energy per atom. Entries are read as plain data: no class named in a file
is imported.
"""

from __future__ import annotations

import csv
import gzip
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from campaigns.exceptions import CampaignError

if TYPE_CHECKING:
    from engine.materials.checks import Rejection
    from engine.materials.crystal import Crystal, Material

PER_ATOM = ("energy_per_atom_eV", "energy_eV_per_atom", "energy_per_atom", "relaxed_energy_eV_per_atom")
"""Names of an energy in eV per atom in a table."""
FORMULA = ("formula", "composition", "formula_pretty", "reduced_formula")
_LISTS = ("entries", "data")
_NAMED = 3


@dataclass(frozen=True, eq=False)
class Reference:
    """A phase that candidates are compared with."""

    id: str
    composition: Mapping[str, float]
    """Atoms of each element."""
    crystal: Crystal | None
    """Standardised, where the file holds it."""
    content_hash: str
    """Of the crystal; empty without one."""
    energy: float | None
    """eV per atom as given, without a correction."""
    is_corrected: bool = False
    """Whether the file also gives a correction of the energy, e.g. that of Materials Project."""

    @property
    def elements(self) -> frozenset[str]:
        """Symbols of its elements."""
        return frozenset(self.composition)


def read_references(files: Sequence[Path]) -> list[Reference]:
    """Read the references of all files; the same crystal counts once.

    Raises
    ------
    CampaignError
        If a file cannot be read, holds no reference, or has a record that cannot be used: a hull that lacks a phase
        makes others look stable.
    """
    found: dict[str, Reference] = {}
    problems: list[str] = []
    for path in files:
        if not path.exists():
            raise CampaignError(f"there is no file {path}; give files of reference crystals or entries")
        read = list(_read(path))
        for n, one in enumerate(read):
            if isinstance(one, str):
                problems.append(one)
            else:
                found.setdefault(one.content_hash or f"{path}:{n}", one)
        if not read:
            raise CampaignError(
                f"{path} holds no reference; give crystals, pymatgen entries, or formulas with energies"
            )
    if problems:
        more = f" (and {len(problems) - _NAMED} more)" if len(problems) > _NAMED else ""
        raise CampaignError(
            f"{len(problems)} reference records cannot be used: {'; '.join(problems[:_NAMED])}{more}; correct or "
            "remove them: a hull that lacks a phase makes others look stable"
        )
    return list(found.values())


def _read(path: Path) -> Iterator[Reference | str]:
    """References of a file, or what is wrong with a record."""
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as handle:
            for n, row in enumerate(csv.DictReader(handle), 2):
                yield _entry(row, f"{path}:{n}")
        return
    records = _json_records(path) if path.is_file() else None
    if records is None:
        from engine.materials.loading import load

        for part in load([path], workers=1):
            yield from map(_of_outcome, part)
        return
    for n, record in enumerate(records):
        yield _record(record, f"{path}[{n}]")


def _json_records(path: Path) -> list[dict[str, Any]] | None:
    """Objects of a JSON document or of JSON lines; None where the file is of another kind."""
    if not path.name.removesuffix(".gz").endswith((".json", ".jsonl")):
        return None
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as handle:
            text = handle.read()
        if path.name.removesuffix(".gz").endswith(".jsonl"):
            content = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            content = json.loads(text)
    except (OSError, ValueError, EOFError) as error:
        raise CampaignError(f"{path} cannot be read as JSON: {error}; write it again") from error
    if isinstance(content, dict):
        content = next((content[name] for name in _LISTS if isinstance(content.get(name), list)), [content])
    if isinstance(content, list) and all(isinstance(record, dict) for record in content):
        return content
    return None


def _record(record: dict[str, Any], place: str) -> Reference | str:
    """A JSON record: a crystal where it holds one, else composition and energy."""
    from engine.materials.formats import Format, RawRecord
    from engine.materials.json_records import holds_crystal
    from engine.materials.loading import process

    if not holds_crystal(record):
        return _entry(record, place)
    (outcome,) = process([RawRecord(place, Format.JSON, record, place)])
    found = _of_outcome(outcome)
    if isinstance(found, Reference) and found.energy is None:
        energy = _energy(record, found.composition)
        return replace(found, energy=energy, is_corrected=_is_corrected(record))
    return found


def _of_outcome(outcome: Material | Rejection) -> Reference | str:
    from engine.materials.crystal import Material

    if not isinstance(outcome, Material):
        return f"{outcome.source}, {outcome.record_id}: {outcome.message}"
    crystal = outcome.crystal
    energy = _first_number(outcome.properties, PER_ATOM)
    return Reference(outcome.id, dict(crystal.composition), crystal, outcome.content_hash, energy)


def _entry(record: Mapping[str, Any], place: str) -> Reference | str:
    """A record without a crystal: composition or formula, and energy."""
    given = next((record[name] for name in FORMULA if record.get(name)), None)
    composition = _composition(given)
    if composition is None:
        return f"{place}: {given!r} is no formula (fields {', '.join(FORMULA[:2])})"
    energy = _energy(record, composition)
    if energy is None:
        return f"{place}: {given} has no energy (fields {', '.join(PER_ATOM[:3])}; energy in a pymatgen entry)"
    name = next((str(record[name]) for name in ("entry_id", "id", "material_id") if record.get(name)), place)
    return Reference(name, composition, None, "", energy, _is_corrected(record))


def _composition(given: object) -> dict[str, float] | None:
    """Atoms of each element of a formula, or of an object of elements and amounts."""
    from pymatgen.core import Composition

    from engine.materials.elements import ATOMIC_NUMBERS

    if not isinstance(given, str | dict):
        return None
    try:
        found = Composition(given).element_composition
    except (ValueError, KeyError, TypeError):
        return None
    amounts = {str(element): float(amount) for element, amount in found.items()}
    usable = all(symbol in ATOMIC_NUMBERS and 0 < amount < math.inf for symbol, amount in amounts.items())
    return amounts if amounts and usable else None


def _energy(record: Mapping[str, Any], composition: Mapping[str, float]) -> float | None:
    """Energy in eV per atom: as given, or the total energy of a pymatgen entry over the atoms of its composition."""
    per_atom = _first_number(record, PER_ATOM)
    total, given = _number(record.get("energy")), record.get("composition")
    if per_atom is not None or total is None or not isinstance(given, dict):
        return per_atom
    own = _composition(given) or composition
    return total / sum(own.values())


def _is_corrected(record: Mapping[str, Any]) -> bool:
    return bool(_number(record.get("correction")))


def _first_number(record: Mapping[str, Any], names: Iterable[str]) -> float | None:
    return next((value for name in names if (value := _number(record.get(name))) is not None), None)


def _number(value: object) -> float | None:
    """A finite number, also as text."""
    try:
        number = float(value) if isinstance(value, int | float | str) else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None
