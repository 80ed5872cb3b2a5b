"""One record's text to a crystal: CIF, POSCAR, extended XYZ, and JSON: ours, pymatgen's, JARVIS' and OPTIMADE's.

Nothing here unpickles, and no class named in a file is imported: pymatgen's JSON is read as plain data.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from engine.exceptions import CrystalError
from engine.materials.checks import Rejection, RejectionReason
from engine.materials.cif import parse_cif
from engine.materials.crystal import Crystal, PropertyValue
from engine.materials.json_records import parse_json
from engine.materials.parsing import Parsed, first_line, is_text, own_id, printable
from engine.materials.phonopy_yaml import parse_phonopy
from engine.materials.poscar import parse_poscar
from engine.materials.xyz import parse_xyz


class Format(StrEnum):
    """Formats that can be read."""

    CIF = "cif"
    POSCAR = "poscar"
    XYZ = "xyz"
    PHONOPY = "phonopy"
    """``phonopy.yaml`` and its like."""
    JSON = "json"
    """One object: a record of this program, a pymatgen structure or an entry that holds one, JARVIS, OPTIMADE."""


@dataclass(frozen=True)
class RawRecord:
    """One crystal's text from a file, not parsed yet, so that parsing can happen in another process."""

    id: str
    """Id from the file's name; an id inside the record supersedes it."""
    format: Format
    payload: bytes | dict[str, Any]
    source: str
    """File, and place in it (archive member, line, block or frame)."""
    properties: dict[str, PropertyValue] = field(default_factory=dict)
    """Properties from another source, e.g. a table with the file; those in the record take precedence."""


@dataclass(frozen=True)
class Record:
    """A parsed crystal, not checked and not standardised."""

    id: str
    crystal: Crystal
    properties: dict[str, PropertyValue]
    source: str
    notes: tuple[str, ...] = ()
    """Notes of the parser, e.g. on coordinates moved to special positions."""
    isotopes: str = ""
    """As :attr:`engine.materials.parsing.Parsed.isotopes`."""


def parse(raw: RawRecord) -> Record | Rejection:
    """Parse one record; any problem is returned as a :class:`Rejection`.

    Warnings of libraries are part of the result: those of :data:`FATAL_WARNINGS` refuse the record, all
    others are notes.
    """
    record_id = raw.id
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            content = _json_object(raw.payload) if raw.format is Format.JSON else raw.payload
            if isinstance(content, dict):
                record_id = _checked_id(own_id(content)) or raw.id
            parsed = _PARSERS[raw.format](content)
            record_id = _checked_id(parsed.id) or record_id
            _refuse_fatal(caught)
        except CrystalError as error:
            return rejection(error, raw.source, record_id)
        except Exception as error:  # third-party parsers may raise anything on damaged text
            return rejection(_unreadable(raw.format, error), raw.source, record_id)
    notes = tuple(dict.fromkeys(printable(n) for n in [*(first_line(w.message) for w in caught), *parsed.notes]))
    return Record(record_id, parsed.crystal, raw.properties | parsed.properties, raw.source, notes, parsed.isotopes)


def rejection(error: CrystalError, source: str, record_id: str) -> Rejection:
    """Rejection from an exception."""
    return Rejection(source, record_id, RejectionReason(error.reason), printable(error.message), error.remedy)


def _checked_id(record_id: str) -> str:
    if not is_text(record_id):
        raise CrystalError(
            RejectionReason.UNREADABLE,
            f"the id {printable(record_id)!r} holds half of a character",
            "give it an id of whole characters",
        )
    return record_id


FATAL_WARNINGS = (
    r"Defaulting to P1",
    r"[Cc]ould not find .*symmetry|[Nn]o .*symmetr.* found",
    r"[Ss]kipp(ed|ing) .*(site|atom|line)",
    r"[Oo]ccupanc(y|ies) .*(exceed|greater|sum)",
    r"Elements in POSCAR",
    r"[Ss]toichiometry|[Cc]omposition .*(mismatch|differ|inconsistent)",
    r"fallback|falling back",
)
"""Warnings of pymatgen, ASE or phonopy that mean another crystal than the file's."""


def _refuse_fatal(caught: list[warnings.WarningMessage]) -> None:
    for warning in caught:
        message = first_line(warning.message)
        if any(re.search(pattern, message) for pattern in FATAL_WARNINGS):
            raise CrystalError(
                RejectionReason.UNREADABLE,
                f"its reader had to guess: {message}",
                "write the file again with all of its atoms and symmetry operations",
            )


def _json_object(payload: bytes | dict[str, Any]) -> dict[str, Any]:
    content = payload if isinstance(payload, dict) else json.loads(payload)
    if not isinstance(content, dict):
        raise CrystalError(
            RejectionReason.UNREADABLE,
            f"a record must be a JSON object, not {type(content).__name__}",
            'write {"id", "lattice", "species", "frac_coords", "properties"} or a pymatgen structure',
        )
    return content


def _unreadable(file_format: Format, error: Exception) -> CrystalError:
    return CrystalError(
        RejectionReason.UNREADABLE,
        f"not readable as {file_format.value}: {first_line(error) or type(error).__name__}",
        "correct or replace the file, or rename it if it has another format",
    )


_PARSERS: dict[Format, Callable[[Any], Parsed]] = {
    Format.CIF: parse_cif,
    Format.POSCAR: parse_poscar,
    Format.XYZ: parse_xyz,
    Format.PHONOPY: parse_phonopy,
    Format.JSON: parse_json,
}
