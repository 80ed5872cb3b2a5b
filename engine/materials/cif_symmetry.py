"""Symmetry operations of a CIF: those it lists, or those of the setting that it names.

Names, settings and operations of space groups are gemmi's table of 564 settings, equal to spglib's 530 where both
have them (tested). A number or a short symbol names several settings: all that fit the cell are tried, and the
formula, Z, density or multiplicities in the file must single out one crystal, or the file is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.cif_block import Block

if TYPE_CHECKING:
    import gemmi
    from numpy.typing import NDArray

METRIC_TOLERANCE = 0.02
"""Tolerance of an operation on the metric: largest relative change of a squared length or product of lengths."""
_LISTED = (
    "_space_group_symop_magn_operation_xyz",
    "_space_group_symop_operation_xyz",
    "_symmetry_equiv_pos_as_xyz",
    "_space_group_symop_magn_ssg_operation_algebraic",
)
_NAMES = (
    "_symmetry_space_group_name_h-m",
    "_space_group_name_h-m_alt",
    "_space_group_name_h-m_full",
    "_space_group_name_h-m_ref",
)
_HALLS = ("_symmetry_space_group_name_hall", "_space_group_name_hall")
_NUMBERS = ("_space_group_it_number", "_symmetry_int_tables_number")
_ADVICE = (
    "list the symmetry operations (_space_group_symop_operation_xyz), or write the full cell in 'P 1', e.g. with "
    "pymatgen's CifWriter or VESTA"
)


@dataclass(frozen=True, eq=False)
class Operations:
    """A space group's operations on fractional coordinates: ``x -> rotations @ x + translations``."""

    name: str
    """For messages: the setting's symbol, or ``listed``."""
    rotations: NDArray[np.float64]
    """Rotations, ``m x 3 x 3``."""
    translations: NDArray[np.float64]
    """Translations, ``m x 3``."""

    def __len__(self) -> int:
        """Order of the group, centring included."""
        return len(self.rotations)


@dataclass(frozen=True)
class Symmetry:
    """Symmetry of a block."""

    candidates: tuple[Operations, ...]
    """One where the file is unambiguous; several where it fits several settings."""
    named: Operations | None = None
    """Where operations are listed: those of the symbol beside them, if it is known."""
    words: str = ""
    """Symmetry as in the file, for messages."""
    guessed: bool = False
    """Whether the file gives none, and ``P 1`` is assumed."""


def read_symmetry(block: Block, lattice: NDArray[np.float64]) -> Symmetry:
    """Operations that the block lists or names and that leave its cell as it is.

    Raises
    ------
    CrystalError
        If they are unknown, contradict each other, or do not fit the cell.
    """
    listed = _listed(block)
    name, hall, number = block.text(*_NAMES), block.text(*_HALLS), _number(block)
    words = ", ".join(
        part for part in (name, f"Hall {hall!r}" if hall else "", f"number {number}" if number else "") if part
    )
    if listed is not None:
        _require_fit(listed, lattice, "the listed symmetry operations")
        named = _settings(name, number, lattice) if name or number else []
        return Symmetry((listed,), named[0] if len(named) == 1 else None, words or "listed operations")
    if hall:
        return Symmetry((_of_hall(hall, name, number, lattice),), words=words)
    if not words:
        return Symmetry((_table_operations("P 1"),), words="none", guessed=True)
    candidates = _settings(name, number, lattice)
    if not candidates:
        raise _unclear(f"its symmetry {words} names no setting of a space group that fits the cell")
    if re.search(r"(:\s*\w|\s[SZHR])\s*$", name) and not number:
        raise _unclear(f"the symmetry {name!r} has the code of a setting and no number to confirm it")
    return Symmetry(tuple(candidates), words=words)


def _unclear(message: str) -> CrystalError:
    return CrystalError(RejectionReason.UNREADABLE, message, _ADVICE)


def _number(block: Block) -> int | None:
    number = block.number(*_NUMBERS)
    if number is None or number == 0:
        return None
    if number not in range(1, 231):
        raise _unclear(f"the symmetry number is {number:g}, not 1 to 230")
    return int(number)


# --- listed ----------------------------------------------------------------------------------------------------------


def _listed(block: Block) -> Operations | None:
    tag = next((tag for tag in _LISTED if any(block.column(tag))), None)
    if tag is None:
        return None
    triplets = _triplets([value for value in block.column(tag) if value])
    centring = _triplets(block.column("_space_group_symop_magn_centering_xyz")) if "magn" in tag else []
    operations = _closed_by(tuple(triplets), tuple(centring) or ("x,y,z",))
    identity = np.abs(operations.rotations - np.eye(3)).max(axis=(1, 2)) + np.abs(operations.translations).max(axis=1)
    if identity.min() > 1e-9:
        raise _unclear("the listed symmetry operations lack the identity x,y,z")
    return operations


def _triplets(values: list[str]) -> list[str]:
    """One text for each operation; those without quotes are split into three values."""
    if any(value.endswith(",") for value in values):
        values = re.findall(r"[^\s,]+\s*,\s*[^\s,]+\s*,\s*[^\s,]+", " ".join(values))
    return [",".join(value.replace(" ", "").lower().split(",")[:3]) for value in values]


@lru_cache(maxsize=256)
def _closed_by(triplets: tuple[str, ...], centring: tuple[str, ...]) -> Operations:
    found: dict[tuple[float, ...], tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
    for shift in centring:
        for triplet in triplets:
            rotation, translation = _affine(triplet)
            translation = (translation + _affine(shift)[1]) % 1.0
            found.setdefault(_key(rotation, translation), (rotation, translation))
    operations = Operations(
        "listed", np.array([r for r, _ in found.values()]), np.array([t for _, t in found.values()]).reshape(-1, 3)
    )
    _require_group(operations)
    return operations


def _require_group(operations: Operations) -> None:
    """Refuse operations that are not a group: some are missing or mistyped."""
    rotations, translations = operations.rotations, operations.translations
    known = {_key(r, t) for r, t in zip(rotations, translations, strict=True)}
    for rotation, translation in zip(rotations, translations, strict=True):
        products = zip(rotation @ rotations, translations @ rotation.T + translation, strict=True)
        if any(_key(r, t) not in known for r, t in products):
            raise _unclear(f"the {len(operations)} listed symmetry operations are not a group: some missing or wrong")


def _key(rotation: NDArray[np.float64], translation: NDArray[np.float64]) -> tuple[float, ...]:
    return (*np.round(rotation, 3).ravel().tolist(), *(np.round(translation % 1.0, 3) % 1.0).tolist())


@lru_cache(maxsize=4096)
def _affine(triplet: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rotation and translation of ``-y,x-y,z+1/3``; decimals such as .33333 are read as fractions."""
    from pymatgen.core.operations import SymmOp

    if not re.fullmatch(r"([+-]?[xyz\d./+*-]+,){2}[+-]?[xyz\d./+*-]+", triplet):
        raise _unclear(f"the symmetry operation {triplet!r} is not valid")
    matrix = SymmOp.from_xyz_str(triplet).affine_matrix
    rotation = np.round(matrix[:3, :3], 6)
    if abs(abs(np.linalg.det(rotation)) - 1) > 1e-6:
        raise _unclear(f"the symmetry operation {triplet!r} does not preserve volumes")
    return rotation, np.array([_exact(float(t)) for t in matrix[:3, 3]]) % 1.0


def _exact(number: float) -> float:
    near = float(Fraction(number).limit_denominator(24))
    return near if abs(near - number) < 2e-4 else number


# --- named -----------------------------------------------------------------------------------------------------------


def _settings(name: str, number: int | None, lattice: NDArray[np.float64]) -> list[Operations]:
    """Settings that symbol and number allow and that fit the cell; a symbol without code may have two origins."""
    import gemmi

    symbol = re.sub(r"\s+", " ", name.replace("_", "").strip())
    if number:
        # codes of ICSD and FINDSYM
        symbol = re.sub(r"\s+([SZ])$", lambda m: {"S": ":1", "Z": ":2"}[m[1]], symbol)
        symbol = re.sub(r"\s+([HR])$", r":\1", symbol)
    found: list[gemmi.SpaceGroup] = []
    if symbol:
        setting = gemmi.find_spacegroup_by_name(symbol.encode("ascii", "ignore").decode())
        if setting is None or (number and setting.number != number):
            return []
        has_code = re.search(r":\s*\w+$", symbol) is not None
        found = [setting] if has_code else [s for s in _table(setting.number) if s.hm == setting.hm]
    elif number:
        found = list(_table(number))
    return [o for s in found if _fits(o := _table_operations(s.xhm()), lattice)]


@cache
def _table(number: int) -> tuple[gemmi.SpaceGroup, ...]:
    """Settings of a space group, the standard one first; gemmi's table has some twice, under other names."""
    import gemmi

    unique = {s.hall: s for s in reversed([s for s in gemmi.spacegroup_table() if s.number == number])}
    return tuple(sorted(unique.values(), key=lambda s: not s.is_reference_setting()))


@cache
def _table_operations(symbol: str) -> Operations:
    import gemmi

    setting = gemmi.find_spacegroup_by_name(symbol)
    return _of_group(symbol, setting.operations())


def _of_group(name: str, group: gemmi.GroupOps) -> Operations:
    seitz = np.array([operation.float_seitz() for operation in group])
    return Operations(name, seitz[:, :3, :3], seitz[:, :3, 3] % 1.0)


def _of_hall(hall: str, name: str, number: int | None, lattice: NDArray[np.float64]) -> Operations:
    import gemmi

    try:
        group = gemmi.symops_from_hall(hall)
        setting = gemmi.find_spacegroup_by_ops(group)
    except (RuntimeError, ValueError, IndexError) as error:
        raise _unclear(f"the Hall symbol {hall!r} of its symmetry is not valid ({error})") from error
    operations = _of_group(hall, group)
    named = gemmi.find_spacegroup_by_name(name.replace("_", "")) if name else None
    told = number or (named.number if named else None)
    if setting is not None and told is not None and setting.number != told:
        raise _unclear(
            f"its symmetry is of number {setting.number} by the Hall symbol {hall!r} and of number {told} otherwise"
        )
    _require_fit(operations, lattice, f"the symmetry {hall!r}")
    return operations


def _fits(operations: Operations, lattice: NDArray[np.float64]) -> bool:
    """Whether every operation maps the cell on itself."""
    metric = lattice @ lattice.T
    lengths = np.sqrt(np.diag(metric))
    moved = np.einsum("mji,jk,mkl->mil", operations.rotations, metric, operations.rotations)
    return bool((np.abs(moved - metric) <= METRIC_TOLERANCE * np.outer(lengths, lengths)).all())


def _require_fit(operations: Operations, lattice: NDArray[np.float64], what: str) -> None:
    if not _fits(operations, lattice):
        lengths = ", ".join(f"{x:.4g}" for x in np.linalg.norm(lattice, axis=1))
        raise CrystalError(
            RejectionReason.UNREADABLE,
            f"{what} do not fit the cell of lengths {lengths} Angstrom",
            "check the cell's lengths and angles and the setting of the space group",
        )
