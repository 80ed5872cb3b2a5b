"""What an exported entry is: its crystal, its settings, why it was chosen, and hashes that show when either changed."""

from __future__ import annotations

import builtins
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from campaigns.exceptions import ExchangeError

MANIFEST = "manifest.json"
"""Name of the manifest of a whole export."""
ENTRY = "entry.json"
"""Name of the manifest of one entry."""
SCHEMA: Literal[1] = 1
Matrix = tuple[tuple[int, int, int], tuple[int, int, int], tuple[int, int, int]]
_RUNTIME_TAGS = {"KPAR", "LCHARG", "LPLANE", "LSCALAPACK", "LSCALU", "LWAVE", "NCORE", "NPAR", "NSIM", "NWRITE"}
"""INCAR tags that determine how VASP runs, not its results."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Phonons(_Record):
    """Settings of force constants and conductivity, as chosen for one crystal."""

    supercell: Matrix
    """Columns are the supercell's vectors in the basis of the cell, phonopy's convention."""
    fc2_supercell: Matrix | None
    displacements: Literal["random", "systematic"]
    snapshots: int | None
    """Number of supercells with random displacements."""
    fc2_snapshots: int | None
    seed: int
    amplitude: float
    """Angstrom."""
    pair_cutoff: float | None
    """Angstrom."""
    mesh: tuple[int, int, int]
    solver: Literal["rta", "lbte"]
    isotope: bool
    temperatures: tuple[float, ...]
    """Kelvin."""
    imaginary_tolerance: float
    """THz."""


class Method(_Record):
    """What the settings say of first principles; recorded where ``[dft]`` has a preset or one of its keys."""

    preset: str | None
    functional: str
    """That of the forces, ``PBE+U``; of the relaxation too where that has another."""
    potcar_release: str | None
    potcar: dict[str, str]
    """Pseudopotential by element."""
    spin: str
    """``none``, ``given``, ``parallel`` or ``tested``: without spin where the relaxation finds no moment."""
    moments: str
    """MAGMOM of the forces where it is given."""
    magnetism: str
    """``[dft] magnetism``: what follows from a moment."""
    hubbard_u: dict[str, float]
    """eV by element."""


class EntrySettings(_Record):
    """Everything that determines an entry's result, besides its crystal."""

    relax: bool
    born: bool
    phonons: Phonons | None
    """None where only the relaxation is exported."""
    inputs: dict[str, str]
    """SHA-256 of the content of INCAR, KPOINTS and POTCAR.spec files, by path; comments do not count."""
    method: Method | None = None

    @model_serializer(mode="wrap")
    def _without_absent_method(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out a method that is not recorded, as entries of earlier versions have none in their hash."""
        return {name: value for name, value in serialise(self).items() if name != "method" or value is not None}

    @property
    def sha256(self) -> str:
        """Hash of all settings."""
        return _hash(json.dumps(self.model_dump(mode="json"), sort_keys=True))


class Predicted(_Record):
    """The campaign's prediction in the property's unit; ``None`` where no model predicted."""

    mean: float | None
    lower: float | None
    upper: float | None
    log10_mean: float | None
    """Mean of the logarithm; ``None`` for a property that is learned on a linear scale."""
    log10_std: float | None


class Work(_Record):
    """Size and cost of the calculation."""

    supercells: int
    """Number of force calculations, those of fc2 included."""
    atoms: int
    """Atoms of the largest supercell."""
    core_hours: float
    """Core-hours expected when it was exported: ``expected_cost``, unless costs were learned from calculations that
    finished since it was queued, or settings changed."""


class Entry(_Record):
    """One exported queue entry."""

    schema_version: Literal[1]
    campaign: str
    property: str
    fidelity: str
    round: int
    rank: int
    id: str
    formula: str
    spacegroup: int
    content_hash: str
    """Content hash of the crystal, equal in any cell."""
    poscar_sha256: str
    predicted: Predicted
    acquisition: float | None
    expected_cost: float | None
    """Core-hours expected when it was queued; None where no cost was known."""
    reason: str
    work: Work | None
    settings: EntrySettings
    settings_sha256: str
    notes: tuple[str, ...]
    """Notes from the creation of its inputs."""
    versions: dict[str, str]

    @builtins.property  # the field above hides the name
    def identity(self) -> tuple[str, str, str]:
        """What must agree for two exports to be the same calculation."""
        return self.content_hash, self.poscar_sha256, self.settings_sha256

    def to_json(self) -> str:
        """The entry as JSON, the same bytes for the same entry."""
        return json.dumps(self.model_dump(mode="json"), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, where: str) -> Entry:
        """Inverse of :meth:`to_json`.

        Raises
        ------
        ExchangeError
            If it is damaged, or its settings do not match its hash.
        """
        try:
            entry = cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ExchangeError(
                f"{where} is damaged ({place + ': ' if place else ''}{first['msg']}); copy it again from where it was "
                "exported"
            ) from error
        if entry.settings.sha256 != entry.settings_sha256:
            raise ExchangeError(f"{where} was edited: its settings do not match its hash; restore it")
        return entry


def write_manifest(entries: Mapping[str, Entry]) -> str:
    """Text of the manifest of a whole export: one row for each folder."""
    rows = [
        {
            "folder": folder,
            "id": e.id,
            "formula": e.formula,
            "round": e.round,
            "rank": e.rank,
            "predicted": e.predicted.model_dump(mode="json"),
            "reason": e.reason,
            "expected_cost": e.expected_cost,
            "work": e.work.model_dump(mode="json") if e.work else None,
            "content_hash": e.content_hash,
            "settings_sha256": e.settings_sha256,
            "versions": e.versions,
        }
        for folder, e in sorted(entries.items())
    ]
    return json.dumps({"schema_version": SCHEMA, "entries": rows}, indent=1, ensure_ascii=False) + "\n"


def differences(exported: Entry, found: Entry) -> list[str]:
    """Name what differs between two versions of an entry (``settings.phonons.mesh``)."""
    return list(_differences(exported.model_dump(mode="json"), found.model_dump(mode="json"), ""))


def meaning_sha256(name: str, text: str) -> str:
    """Hash of a VASP input; comments, spaces, the order of tags and tags of parallelisation do not count."""
    lines = text.splitlines()
    if name.partition(".")[0] == "INCAR":
        bare = re.split(r"[\n;]", "\n".join(re.split(r"[#!]", line)[0] for line in lines))
        pairs = [(key.strip().upper(), value.split()) for key, _, value in (part.partition("=") for part in bare)]
        words = sorted([key, *value] for key, value in pairs if key and key not in _RUNTIME_TAGS)
    else:
        words = [line.split() for line in (lines[1:] if name == "KPOINTS" else lines) if line.strip()]
    return _hash(json.dumps(words))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def text_sha256(text: str) -> str:
    """SHA-256 of text as UTF-8."""
    return _hash(text)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _differences(one: Any, other: Any, path: str) -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        for key in [*one, *(key for key in other if key not in one)]:
            yield from _differences(one.get(key), other.get(key), f"{path}.{key}" if path else key)
    elif one != other:
        yield path
