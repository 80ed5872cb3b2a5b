"""State of an exported folder: not started, running, done or failed, and its conductivity."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from campaigns.exceptions import ExchangeError, ResultFileError
from campaigns.exchange.job_record import job_record, relaxation_note
from campaigns.exchange.kappa_files import Kappa, differences, read_kappa
from campaigns.exchange.manifest import ENTRY, Entry, file_sha256, meaning_sha256
from campaigns.exchange.supergroups import supergroups
from db.records import Json
from db.states import FailureReason
from engine.materials.crystal import Crystal

_CLOCKS = 60.0
"""Seconds; a file older than STARTED by more was there before the run."""


class Standing(StrEnum):
    """State of a calculation."""

    NOT_STARTED = "not started"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Reading:
    """Contents of one exported folder."""

    folder: str
    entry: Entry
    standing: Standing
    kappas: tuple[Kappa, ...] = ()
    """Conductivities, oldest first; those of another method than exported have the name that the user gave."""
    failure: FailureReason | None = None
    failed_at: str = ""
    """Time of the failure as the job wrote it, or of the file that shows it."""
    message: str = ""
    """Reason of the failure, or notes."""
    exported: Crystal | None = None
    """Structure of the calculation; None where POSCAR was not copied back."""
    relaxed: Crystal | None = None
    core_hours: float | None = None
    job: Json = field(default_factory=dict)
    """What the job recorded: pseudopotentials, spin, relaxation."""


@dataclass(frozen=True)
class _Beside:
    """Conductivities that contradict the marker of the state."""

    paths: tuple[Path, ...] = ()
    """Conductivities to be read."""
    message: str = ""


def read_folder(folder: Path, temperatures: Sequence[float] = (), as_method: str = "") -> Reading:
    """Read one exported folder in its present state.

    Parameters
    ----------
    folder
        An exported folder.
    temperatures
        Kelvin; where the conductivity is summed over mean free paths.
    as_method
        Name for a method other than exported; without one, its files are skipped or refused.

    Raises
    ------
    ExchangeError
        If it is not the result of what was exported: another structure, other settings, an incomplete copy.
    """
    entry = Entry.from_json((folder / ENTRY).read_text(encoding="utf-8", errors="replace"), str(folder / ENTRY))
    _check_inputs(folder, entry)
    done, failed = _marker(folder / "DONE"), _marker(folder / "FAILED")
    hours, job = _core_hours(folder / "TIMES"), job_record(folder)

    def reading(standing: Standing, **what: Any) -> Reading:
        return Reading(folder.name, entry, standing, core_hours=hours, job=job, **what)

    def failure(reason: FailureReason, message: str, **what: Any) -> Reading:
        return reading(Standing.FAILED, failure=reason, message=message, **what)

    beside = _Beside(_kappa_paths(folder))
    if failed is not None and (done is None or str(failed.get("at", "~")) > str(done.get("at", ""))):
        beside = _beside_failed(folder, failed) if done is None else _Beside()
        if not beside.paths:
            message = "; ".join(filter(None, [_failure_message(failed), beside.message]))
            return failure(_reason(failed), message, failed_at=str(failed.get("at") or _modified(folder / "FAILED")))
    elif done is None and (folder / "STARTED").exists():
        beside = _beside_started(folder)
        if not beside.paths:
            return reading(Standing.RUNNING, message=beside.message)
    _check_whole(folder, done or {})
    exported, relaxed = _crystal(folder, "POSCAR", entry), _crystal(folder, "POSCAR-relaxed", entry)
    failed_at = str((done or {}).get("at") or max(map(_modified, beside.paths), default=""))
    problem, gained = _problem(folder, entry, exported, relaxed)
    try:
        found = [_dated(read_kappa(p, temperatures), done) for p in beside.paths]
        # where symmetry was gained, the job script may have used another mesh
        kappas, passed_over = _kappas(folder, entry, found, as_method, any_mesh=bool(gained))
    except ResultFileError as error:
        return failure(FailureReason.BAD_OUTPUT, str(error), failed_at=failed_at)
    if not kappas and not (done is not None and relaxed is not None and entry.settings.phonons is None):
        begun = done is not None or any(folder.glob("*/OUTCAR"))
        return reading(Standing.RUNNING if begun else Standing.NOT_STARTED, relaxed=relaxed)
    if problem:
        return failure(*problem, relaxed=relaxed, failed_at=failed_at)
    message = "; ".join(filter(None, [beside.message, gained, relaxation_note(job), passed_over]))
    return reading(
        Standing.DONE, kappas=kappas, message=message, exported=exported, relaxed=relaxed, failed_at=failed_at
    )


def _kappa_paths(folder: Path) -> tuple[Path, ...]:
    """Conductivities of whole runs, not those of one grid point."""
    return tuple(p for p in sorted(folder.glob("kappa-m*.hdf5")) if not re.search(r"-g\d", p.name))


# -- finished by hand -------------------------------------------------------------------------------------------------


def _beside_failed(folder: Path, failed: Json) -> _Beside:
    """Conductivities that were made after the script failed."""
    limit = (folder / "FAILED").stat().st_mtime
    later = tuple(p for p in _kappa_paths(folder) if p.stat().st_mtime > limit and _is_whole(p))
    if not later:
        return _Beside()
    names = ", ".join(p.name for p in later)
    if _reason(failed) is FailureReason.NOT_CONVERGED:
        return _Beside((), f"{names} is newer, but made from what had not converged; remove FAILED if that was fixed")
    said = _failure_message(failed)
    return _Beside(later, f"{names} lies beside an older FAILED" + (f" ({said})" if said else ""))


def _beside_started(folder: Path) -> _Beside:
    """Conductivities beside STARTED alone; a run removes old ones only when it writes new ones."""
    paths = _kappa_paths(folder)
    marker = folder / "STARTED"
    limit = min(marker.stat().st_mtime, _timestamp(_marker(marker) or {})) - _CLOCKS
    newer = [p for p in paths if p.stat().st_mtime >= limit]
    if whole := tuple(p for p in newer if _is_whole(p)):
        return _Beside(whole, f"{', '.join(p.name for p in whole)} lies beside an older STARTED, without DONE")
    if newer:
        return _Beside((), f"{', '.join(p.name for p in newer)} cannot be read, at least not yet")
    if paths:
        names = ", ".join(p.name for p in paths)
        return _Beside((), f"{names} is older than STARTED and left to that run; remove STARTED if it is not running")
    return _Beside()


def _is_whole(path: Path) -> bool:
    try:
        read_kappa(path)
    except ResultFileError:
        return False
    return True


def _modified(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")


def _timestamp(marker: Json) -> float:
    """Time in a marker; infinite where it has none."""
    try:
        return datetime.fromisoformat(str(marker.get("at"))).astimezone(UTC).timestamp()
    except ValueError:
        return float("inf")


# -- is it what was exported? -----------------------------------------------------------------------------------------


def _check_inputs(folder: Path, entry: Entry) -> None:
    """Compare the exported inputs that are there; missing ones were not copied back."""
    changed = []
    poscar = folder / "POSCAR"
    if poscar.exists() and file_sha256(poscar) != entry.poscar_sha256:
        changed.append("POSCAR (the structure)")
    for path, digest in entry.settings.inputs.items():
        file = folder / path
        # where the relaxation found no moment, the job used the exported inputs without spin
        expected = {digest, entry.settings.inputs.get(f"{path}.nonmagnetic", digest)}
        if (
            file.exists()
            and meaning_sha256(file.name, file.read_text(encoding="utf-8", errors="replace")) not in expected
        ):
            changed.append(path)
    matrix = _supercell(folder / "phono3py_disp.yaml")
    if matrix and entry.settings.phonons and matrix != [list(row) for row in entry.settings.phonons.supercell]:
        changed.append(f"phono3py_disp.yaml (supercell {matrix})")
    if changed:
        raise ExchangeError(
            f"{folder.name} ({entry.id}) differs from what was exported: {', '.join(changed)}; restore it, or import "
            f"its kappa as it is with `--id {entry.id}`"
        )


def _supercell(path: Path) -> list[list[int]] | None:
    """Supercell matrix in the file of displacements, read without parsing the displacements."""
    if not path.exists():
        return None
    with path.open(encoding="utf-8", errors="replace") as handle:
        head = handle.read(20_000)
    found = re.search(r"^supercell_matrix:\n((?:- \[.*\]\n){3})", head, re.MULTILINE)
    return [[int(n) for n in re.findall(r"-?\d+", row[1:])] for row in found[1].splitlines()] if found else None


def _check_whole(folder: Path, done: Json) -> None:
    """Compare the results with the hashes that the job wrote at its end."""
    files = done.get("files")
    for name, digest in (files if isinstance(files, dict) else {}).items():
        path = folder / Path(str(name)).name
        if not path.exists() or file_sha256(path) != digest:
            what = "is not the file that the job wrote" if path.exists() else "is missing"
            raise ExchangeError(
                f"{folder.name}: {path.name} {what}; copy the folder again, or run `bash run.sh kappa` there if the "
                "file was made anew"
            )


def _kappas(
    folder: Path, entry: Entry, found: Iterable[Kappa], as_method: str, *, any_mesh: bool
) -> tuple[tuple[Kappa, ...], str]:
    """Conductivities of the exported method, oldest first, and of another with a name; and a note on skipped ones."""
    kept, others = [], {}
    for kappa in sorted(found, key=lambda k: k.written_at):
        phonons = entry.settings.phonons
        if phonons and any_mesh:
            phonons = phonons.model_copy(update={"mesh": kappa.mesh})
        unlike = differences(kappa, phonons)
        if unlike:
            others[kappa.name] = kappa, ", ".join(unlike)
        else:
            kept.append(kappa)
    listed = "; ".join(f"{name}: {words}" for name, (_, words) in others.items())
    if others and as_method:
        if len({words for _, words in others.values()}) > 1:
            raise ExchangeError(
                f"{folder.name} ({entry.id}) holds several other methods: {listed}; import them one by one with "
                f"`--id {entry.id} --as-method NAME`"
            )
        kept += [replace(kappa, given_method=as_method) for kappa, _ in others.values()]
        return tuple(kept), ""
    if others and not kept:
        raise ExchangeError(
            f"{folder.name} ({entry.id}) was computed by another method than exported: {listed}; store it separately "
            "with `--as-method NAME`"
        )
    return tuple(kept), f"skipped, of another method: {listed}" if others else ""


def _dated(kappa: Kappa, done: Json | None) -> Kappa:
    """Time that the job wrote, which survives copying, in place of the file's own."""
    if not done or kappa.name not in (done.get("files") or {}):
        return kappa
    at = _timestamp(done)
    if not np.isfinite(at):
        return kappa
    return replace(kappa, written_at=datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds"))


def _crystal(folder: Path, name: str, entry: Entry) -> Crystal | None:
    """Read a structure, if it is there, and check that it has the same atoms."""
    from engine.materials.formats import Format, RawRecord, Record, parse

    path = folder / name
    if not path.exists():
        return None
    record = parse(RawRecord(entry.id, Format.POSCAR, path.read_bytes(), str(path)))
    if not isinstance(record, Record):
        raise ExchangeError(f"{folder.name}: {name} cannot be read ({record.message}); copy it again")
    if record.crystal.formula != entry.formula:
        raise ExchangeError(
            f"{folder.name}: {name} is {record.crystal.formula}, but {entry.formula} was exported; restore "
            "the structure that belongs there"
        )
    return record.crystal


# -- was it the calculation? ------------------------------------------------------------------------------------------


def _problem(
    folder: Path, entry: Entry, exported: Crystal | None, relaxed: Crystal | None
) -> tuple[tuple[FailureReason, str] | None, str]:
    """Why there is no conductivity of this crystal, or which symmetry it gained."""
    from engine.materials.identity import standardise

    outcar = folder / "relax" / "OUTCAR"
    if outcar.exists() and not _contains(outcar, b"reached required accuracy"):
        return (FailureReason.NOT_CONVERGED, "relax/OUTCAR does not report that the required accuracy was reached"), ""
    if relaxed is None or (found := standardise(relaxed)[1]) == entry.spacegroup:
        return None, ""
    if _is_supergroup(found, entry.spacegroup, exported, relaxed):
        return None, f"gained symmetry: {found} from {entry.spacegroup}"
    return (FailureReason.SYMMETRY_BROKEN, f"space group {found} after relaxation, {entry.spacegroup} before"), ""


def _is_supergroup(found: int, before: int, exported: Crystal | None, relaxed: Crystal) -> bool:
    """Whether all operations are preserved; by the groups alone where the exported cell is not available."""
    from engine.materials.symmetry import keeps_operations

    if exported is not None:
        return keeps_operations(exported, relaxed)
    return found in supergroups(before)


def _contains(path: Path, words: bytes) -> bool:
    with path.open("rb") as handle:
        return any(words in line for line in handle)


# -- markers ----------------------------------------------------------------------------------------------------------


def _marker(path: Path) -> Json | None:
    """Read a marker; the text of one that a person wrote is the message."""
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return {"message": text}
    return content if isinstance(content, dict) else {"message": text}


def _reason(marker: Json) -> FailureReason:
    return next((r for r in FailureReason if r == marker.get("reason")), FailureReason.CALCULATOR_ERROR)


def _failure_message(marker: Json) -> str:
    parts = [str(marker.get(name, "")) for name in ("stage", "message")]
    return ": ".join(part for part in parts if part)[:500]


def _core_hours(path: Path) -> float | None:
    """Core-hours of all runs of the script: seconds, tasks, cores per task."""
    if not path.exists():
        return None
    rows = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    numbers = [[float(word) for word in row] for row in rows if len(row) == 3 and all(w.isdecimal() for w in row)]
    hours = float(sum(np.prod(row) for row in numbers)) / 3600
    if not np.isfinite(hours):
        raise ExchangeError(f"{path.parent.name}: TIMES adds up to {hours} core-hours; remove the wrong rows")
    return hours if numbers else None
