"""What a folder of an export says by now: not started, running, done or failed, and with which conductivity.

``kappa-*.hdf5`` as phono3py writes it (https://phonopy.github.io/phono3py/hdf5_howto.html): tensors in the order
xx yy zz yz xz xy, W/(m K).
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from campaigns.exceptions import ExchangeError, ResultFileError
from campaigns.exchange.manifest import ENTRY, Entry, file_sha256, meaning_sha256
from db.states import FailureReason
from engine.materials.crystal import Crystal

if TYPE_CHECKING:
    import h5py
    from numpy.typing import NDArray

COMPONENTS = ("xx", "yy", "zz", "yz", "xz", "xy")
SAME_TEMPERATURE = 0.01
"""Kelvin."""
SUSPECT_VERSIONS = ((3, 16), (3, 22))
"""phono3py versions, first to last, with an error in a routine of third order."""
_TOTALS = ("kappa", "kappa_TOT_exact", "kappa_TOT_RTA")
"""Names of the total conductivity; with the Wigner term, phono3py 2 and 3 wrote the last two."""


class Standing(StrEnum):
    """How far a calculation came."""

    NOT_STARTED = "not started"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True)
class Kappa:
    """What one ``kappa-*.hdf5`` holds."""

    name: str
    sha256: str
    written_at: str
    """UTC, ISO 8601."""
    temperatures: NDArray[np.float64]
    """``T``, Kelvin."""
    tensors: NDArray[np.float64]
    """``T x 6``, W/(m K), in the order of :data:`COMPONENTS`."""
    solver: str
    """``RTA`` or ``LBTE``."""
    mesh: tuple[int, ...]
    """Three divisions, or nine numbers of a generalised mesh."""
    isotope: bool
    interband: bool
    """Whether the Wigner term is part of it."""
    version: str
    """Of phono3py."""
    frequencies: tuple[float, float] | None
    """Lowest and highest on the mesh, THz."""

    def at(self, temperature: float) -> NDArray[np.float64] | None:
        """Tensor at a temperature in Kelvin, six components; None where the file has none."""
        near = np.flatnonzero(np.abs(self.temperatures - temperature) <= SAME_TEMPERATURE)
        return self.tensors[near[0]] if near.size else None

    @property
    def is_suspect(self) -> bool:
        """Whether it was written by a version whose third order is in doubt."""
        number = re.match(r"(\d+)\.(\d+)", self.version)
        first, last = SUSPECT_VERSIONS
        return number is not None and first <= (int(number[1]), int(number[2])) <= last


@dataclass(frozen=True)
class Reading:
    """What one folder of an export says."""

    folder: str
    entry: Entry
    standing: Standing
    kappas: tuple[Kappa, ...] = ()
    """Oldest first."""
    failure: FailureReason | None = None
    message: str = ""
    relaxed: Crystal | None = None
    core_hours: float | None = None


def read_folder(folder: Path) -> Reading:
    """Read one exported folder as it is by now.

    Raises
    ------
    ExchangeError
        If what is there is not the result of what was exported: another structure, other settings, half a copy.
    """
    entry = Entry.from_json((folder / ENTRY).read_text(encoding="utf-8", errors="replace"), str(folder / ENTRY))
    _check_inputs(folder, entry)
    done, failed = _marker(folder / "DONE"), _marker(folder / "FAILED")
    hours = _core_hours(folder / "TIMES")

    def reading(standing: Standing, **what: Any) -> Reading:
        return Reading(folder.name, entry, standing, core_hours=hours, **what)

    def failure(reason: FailureReason, message: str, **what: Any) -> Reading:
        return reading(Standing.FAILED, failure=reason, message=message, **what)

    if failed is not None and (done is None or str(failed.get("at", "~")) > str(done.get("at", ""))):
        return failure(_reason(failed), _failure_message(failed))
    if done is None and (folder / "STARTED").exists():
        return reading(Standing.RUNNING)
    _check_whole(folder, done or {})
    try:
        kappas = _kappas(folder, entry, done)
    except ResultFileError as error:
        return failure(FailureReason.BAD_OUTPUT, str(error))
    relaxed = _relaxed(folder, entry)
    if not kappas:
        begun = done is not None or any(folder.glob("*/OUTCAR"))
        return reading(Standing.RUNNING if begun else Standing.NOT_STARTED, relaxed=relaxed)
    for problem in _problems(folder, entry, kappas, relaxed):
        return failure(*problem, relaxed=relaxed)
    return reading(Standing.DONE, kappas=kappas, relaxed=relaxed)


def read_kappa(path: Path) -> Kappa:
    """Read a ``kappa-*.hdf5`` of phono3py, RTA or LBTE, of any version that writes HDF5.

    Raises
    ------
    ResultFileError
        If it is truncated, lacks what a conductivity needs, or reaches for other files.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return _read(file, path)
    except (OSError, RuntimeError, KeyError, ValueError, TypeError) as error:
        raise ResultFileError(
            f"{path.name} cannot be read ({_first_line(error)}); it is truncated or damaged"
        ) from error


def _read(file: h5py.File, path: Path) -> Kappa:
    names = [name for name in _TOTALS if name in file]
    if not names or "temperature" not in file:
        raise ResultFileError(
            f"{path.name} holds no kappa over temperature (it has {', '.join(list(file)[:8]) or 'nothing'}); give the "
            "file of a whole run, not that of one grid point"
        )
    temperatures = np.atleast_1d(_dataset(file, "temperature")).astype(float)
    tensors = np.atleast_2d(_dataset(file, names[0])).astype(float)
    if tensors.shape != (len(temperatures), 6):
        raise ResultFileError(
            f"{path.name}: kappa has the shape {tensors.shape} for {len(temperatures)} temperatures; expected "
            f"({len(temperatures)}, 6)"
        )
    frequencies = _dataset(file, "frequency") if "frequency" in file else np.empty(0)
    version = file["version"][()] if "version" in file else b"unknown"
    return Kappa(
        name=path.name,
        sha256=file_sha256(path),
        written_at=datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds"),
        temperatures=temperatures,
        tensors=tensors,
        solver="LBTE" if any(n in file for n in ("kappa_RTA", "kappa_TOT_exact", "collision_matrix")) else "RTA",
        mesh=tuple(int(n) for n in np.ravel(_dataset(file, "mesh"))) if "mesh" in file else (),
        isotope="gamma_isotope" in file,
        interband=any(n in file for n in ("kappa_inter", "kappa_C")),
        version=version.decode() if isinstance(version, bytes) else str(version),
        frequencies=(float(frequencies.min()), float(frequencies.max())) if frequencies.size else None,
    )


def _dataset(file: h5py.File, name: str) -> NDArray[Any]:
    """Values that are in the file itself; HDF5 can point into others."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ResultFileError(f"{name} is a link to another place; give the file that holds the values")
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset) or dataset.external or dataset.is_virtual:
        raise ResultFileError(f"{name} is not kept in the file itself; give the file that holds the values")
    values: NDArray[Any] = dataset[()]
    return values


# -- is it what was exported? -----------------------------------------------------------------------------------------


def _check_inputs(folder: Path, entry: Entry) -> None:
    """Compare what is there of the exported inputs; what was not copied back cannot have been edited."""
    changed = []
    poscar = folder / "POSCAR"
    if poscar.exists() and file_sha256(poscar) != entry.poscar_sha256:
        changed.append("POSCAR (the structure)")
    for path, digest in entry.settings.inputs.items():
        file = folder / path
        if file.exists() and meaning_sha256(file.name, file.read_text(encoding="utf-8", errors="replace")) != digest:
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
    """Find the supercell matrix in the file of displacements, without parsing the thousands of them."""
    if not path.exists():
        return None
    with path.open(encoding="utf-8", errors="replace") as handle:
        head = handle.read(20_000)
    found = re.search(r"^supercell_matrix:\n((?:- \[.*\]\n){3})", head, re.MULTILINE)
    return [[int(n) for n in re.findall(r"-?\d+", row[1:])] for row in found[1].splitlines()] if found else None


def _check_whole(folder: Path, done: dict[str, Any]) -> None:
    """Compare the results with the hashes that the job noted when it ended."""
    files = done.get("files")
    for name, digest in (files if isinstance(files, dict) else {}).items():
        path = folder / Path(str(name)).name
        if not path.exists() or file_sha256(path) != digest:
            what = "is not the file that the job wrote" if path.exists() else "is missing"
            raise ExchangeError(
                f"{folder.name}: {path.name} {what}; copy the folder again, or run `bash run.sh kappa` there if the "
                "file was made anew"
            )


def _kappas(folder: Path, entry: Entry, done: dict[str, Any] | None) -> tuple[Kappa, ...]:
    """Conductivities with the exported settings, oldest first; those with others are refused if they are all."""
    paths = [p for p in sorted(folder.glob("kappa-m*.hdf5")) if not re.search(r"-g\d", p.name)]
    kappas = [_dated(read_kappa(path), done or {}) for path in paths]
    others = {k.name: mismatch for k in kappas if (mismatch := _mismatch(k, entry))}
    kept = [k for k in kappas if k.name not in others]
    if others and not kept:
        listed = "; ".join(f"{name}: {mismatch}" for name, mismatch in others.items())
        raise ExchangeError(
            f"{folder.name} ({entry.id}) was computed with other settings than exported: {listed}; import the file as "
            f"it is with `--id {entry.id}`"
        )
    return tuple(sorted(kept, key=lambda k: k.written_at))


def _dated(kappa: Kappa, done: dict[str, Any]) -> Kappa:
    """Give the time that the job noted, which outlives copying, in place of the file's own."""
    if kappa.name not in (done.get("files") or {}):
        return kappa
    try:
        at = datetime.fromisoformat(str(done.get("at"))).astimezone(UTC)
    except ValueError:
        return kappa
    return replace(kappa, written_at=at.isoformat(timespec="seconds"))


def _mismatch(kappa: Kappa, entry: Entry) -> str:
    """Say what is not as it was exported, if anything."""
    phonons = entry.settings.phonons
    if phonons is None:
        return ""
    wanted = {"mesh": phonons.mesh, "solver": phonons.solver.upper(), "isotope": phonons.isotope}
    found = {"mesh": kappa.mesh or phonons.mesh, "solver": kappa.solver, "isotope": kappa.isotope}
    return ", ".join(
        f"{name} {found[name]} instead of {wanted[name]}" for name in wanted if found[name] != wanted[name]
    )


def _relaxed(folder: Path, entry: Entry) -> Crystal | None:
    """Read the relaxed structure, if there is one, and check that it is of the same atoms."""
    from engine.materials.formats import Format, RawRecord, Record, parse

    path = folder / "POSCAR-relaxed"
    if not path.exists():
        return None
    record = parse(RawRecord(entry.id, Format.POSCAR, path.read_bytes(), str(path)))
    if not isinstance(record, Record):
        raise ExchangeError(f"{folder.name}: POSCAR-relaxed cannot be read ({record.message}); copy it again")
    if record.crystal.formula != entry.formula:
        raise ExchangeError(
            f"{folder.name}: POSCAR-relaxed is of {record.crystal.formula}, but {entry.formula} was exported; restore "
            "the structure that belongs there"
        )
    return record.crystal


# -- is it a value? ---------------------------------------------------------------------------------------------------


def _problems(
    folder: Path, entry: Entry, kappas: Sequence[Kappa], relaxed: Crystal | None
) -> list[tuple[FailureReason, str]]:
    """Say why a conductivity that is there is none."""
    from engine.materials.identity import standardise

    problems = []
    outcar = folder / "relax" / "OUTCAR"
    if outcar.exists() and not _contains(outcar, b"reached required accuracy"):
        problems.append((FailureReason.NOT_CONVERGED, "relax/OUTCAR does not say that it reached its accuracy"))
    if relaxed is not None and (found := standardise(relaxed)[1]) != entry.spacegroup:
        message = f"space group {found} after relaxation, {entry.spacegroup} before"
        problems.append((FailureReason.SYMMETRY_BROKEN, message))
    phonons = entry.settings.phonons
    newest = kappas[-1]
    if phonons and newest.frequencies and newest.frequencies[0] < -phonons.imaginary_tolerance:
        message = f"a mode at {newest.frequencies[0]:.2f} THz, tolerance {phonons.imaginary_tolerance:g} THz"
        problems.append((FailureReason.IMAGINARY_MODES, message))
    return problems


def _contains(path: Path, words: bytes) -> bool:
    with path.open("rb") as handle:
        return any(words in line for line in handle)


# -- markers ----------------------------------------------------------------------------------------------------------


def _marker(path: Path) -> dict[str, Any] | None:
    """Read a marker; one that a person wrote has its words as the message."""
    if not path.exists():
        return None
    text = path.read_text(encoding="utf-8", errors="replace").strip()
    try:
        content = json.loads(text)
    except json.JSONDecodeError:
        return {"message": text}
    return content if isinstance(content, dict) else {"message": text}


def _reason(marker: dict[str, Any]) -> FailureReason:
    return next((r for r in FailureReason if r == marker.get("reason")), FailureReason.CALCULATOR_ERROR)


def _failure_message(marker: dict[str, Any]) -> str:
    parts = [str(marker.get(name, "")) for name in ("stage", "message")]
    return ": ".join(part for part in parts if part)[:500]


def _core_hours(path: Path) -> float | None:
    """Sum what every run of the script took: seconds, tasks, cores a task."""
    if not path.exists():
        return None
    rows = [line.split() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    numbers = [[float(word) for word in row] for row in rows if len(row) == 3 and all(w.isdecimal() for w in row)]
    return float(sum(np.prod(row) for row in numbers)) / 3600 if numbers else None


def _first_line(error: Exception) -> str:
    return str(error).strip("'\"").splitlines()[0][:200] if str(error) else type(error).__name__
