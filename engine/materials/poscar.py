"""POSCAR and CONTCAR of VASP to a crystal, as https://www.vasp.at/wiki/index.php/POSCAR defines them."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.crystal import Crystal
from engine.materials.elements import ATOMIC_NUMBERS
from engine.materials.parsing import Parsed, as_text, read_species

_FLOAT = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eEdD][+-]?\d+)?")
_FLAGS = {"T", "F", ".T.", ".F.", ".TRUE.", ".FALSE.", "TRUE", "FALSE"}


def parse_poscar(payload: bytes) -> Parsed:
    """Parse a POSCAR; data after the positions (velocities, a density) are ignored.

    Raises
    ------
    CrystalError
        If a line is not what VASP reads there, or counts, species and rows contradict each other.
    """
    lines = as_text(payload).splitlines()
    rest = _Lines(lines)
    rest.skip("title")
    scale = rest.floats("the scale", (1, 3))
    lattice = np.array([rest.floats(f"lattice vector {n}", (3,)) for n in (1, 2, 3)])
    lattice, factors = _scaled(lattice, scale)
    species, counts = _species(rest)
    mode = rest.words("the kind of coordinates")[0]
    selective = mode[0] in "Ss"
    if selective:
        mode = rest.words("the kind of coordinates")[0]
    _refuse_trajectory(lines)
    symbols = [symbol for symbol, count in zip(species, counts, strict=True) for _ in range(count)]
    positions = np.array([_row(rest, n, symbol) for n, symbol in enumerate(symbols, start=1)]).reshape(-1, 3)
    _refuse_more_rows(rest, len(symbols))
    if mode[0] in "CcKk":
        positions = _fractional(positions * factors, lattice)
    numbers, isotopes = read_species(symbols)
    return Parsed(Crystal(lattice, np.array(numbers), positions), isotopes=isotopes)


class _Lines:
    """The lines of a file, read by their expected content; comments after ``!`` and ``#`` are ignored."""

    def __init__(self, lines: list[str]):
        self._lines = lines
        self.place = 0

    def skip(self, what: str) -> None:
        """Skip a line."""
        self._next(what)

    def words(self, what: str) -> list[str]:
        """At least one word."""
        words = re.split(r"[!#]", self._next(what))[0].split()
        if not words:
            raise _bad(f"line {self.place} should be {what} and is empty")
        return words

    def floats(self, what: str, counts: tuple[int, ...]) -> list[float]:
        """Numbers, as many as ``counts`` allows; the rest of the line is a comment."""
        words = self.words(what)
        numbers = list(_leading_floats(words))
        fitting = [count for count in counts if count <= len(numbers)]
        if not fitting or (len(counts) > 1 and len(numbers) not in counts):
            raise _bad(f"line {self.place} should be {what} and is {' '.join(words)[:60]!r}")
        return numbers[: max(fitting)]

    def words_of_last(self) -> list[str]:
        """Words of the line that was read last."""
        return re.split(r"[!#]", self._lines[self.place - 1])[0].split()

    def following(self) -> str | None:
        """The next line, not consumed; None at the end."""
        return self._lines[self.place] if self.place < len(self._lines) else None

    def _next(self, what: str) -> str:
        if self.place >= len(self._lines):
            raise _bad(f"the file ends before {what}")
        self.place += 1
        return self._lines[self.place - 1]


def _leading_floats(words: list[str]) -> Iterator[float]:
    for word in words:
        if word.lower() in ("nan", "inf", "-nan", "-inf", "infinity"):
            yield float(word)
        elif _FLOAT.fullmatch(word):
            yield float(word.lower().replace("d", "e"))
        else:
            return


def _scaled(lattice: NDArray[np.float64], scale: list[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lattice in Angstrom, and the factors by which Cartesian components are multiplied."""
    if len(scale) == 3:
        if min(scale) <= 0:
            raise _bad(f"the three scales {scale} are not all above zero")
        return lattice * np.array(scale), np.array(scale)
    volume = abs(float(np.linalg.det(lattice)))
    if scale[0] == 0:
        raise _bad("the scale is 0")
    factor = scale[0]
    if factor < 0:  # minus the volume of the cell
        if volume == 0:
            raise CrystalError(
                RejectionReason.ZERO_VOLUME, "the three lattice vectors lie in one plane", "check the lattice"
            )
        factor = float((-factor / volume) ** (1 / 3))
    return lattice * factor, np.full(3, factor)


def _species(rest: _Lines) -> tuple[list[str], list[int]]:
    """Symbols of the sixth line without POTCAR suffixes (``Ga_d``, ``Sr_sv/1a2b3c``), and counts of the seventh."""
    words = rest.words("the element symbols")
    if all(word.isdigit() for word in words):
        raise CrystalError(
            RejectionReason.MISSING_FIELD,
            "the POSCAR does not name its elements",
            "write the element symbols in its sixth line, as VASP 5 does",
        )
    counts = rest.words("the numbers of atoms")
    bad = [word for word in counts if not word.isdigit() or int(word) < 1]
    if bad or len(counts) != len(words):
        raise _bad(
            f"the species {' '.join(words)} have the counts {' '.join(counts)}; expected one number above zero for each"
        )
    return [re.split(r"[_/]", word)[0] for word in words], [int(word) for word in counts]


def _refuse_trajectory(lines: list[str]) -> None:
    if any(re.match(r"\s*Direct configuration\s*=", line, re.IGNORECASE) for line in lines[5:10]):
        raise CrystalError(
            RejectionReason.UNKNOWN_FORMAT,
            "the file is an XDATCAR, the frames of a run",
            "write one frame as a POSCAR, e.g. ase.io.read('XDATCAR', index=-1).write('POSCAR')",
        )


def _row(rest: _Lines, n: int, symbol: str) -> list[float]:
    numbers = rest.floats(f"the position of atom {n} ({symbol})", (3,))
    words = rest.words_of_last()[3:]
    labels = [re.split(r"[_/]", word)[0] for word in words if word.upper() not in _FLAGS]
    if labels and labels[0] in ATOMIC_NUMBERS and labels[0] != symbol:
        raise CrystalError(
            RejectionReason.CONTRADICTION,
            f"atom {n} is {symbol} by its place and {labels[0]} by its label",
            "check the species, the counts and the order of the rows",
        )
    return numbers[:3]


def _refuse_more_rows(rest: _Lines, count: int) -> None:
    """Refuse more positions than the counts; velocities follow an empty line or one of words."""
    following = rest.following()
    if following is not None and len(list(_leading_floats(following.split()))) >= 3:
        raise _bad(f"more rows of positions than the {count} atoms that its counts add up to")


def _fractional(cartesian: NDArray[np.float64], lattice: NDArray[np.float64]) -> NDArray[np.float64]:
    try:
        return np.asarray(np.linalg.solve(lattice.T, cartesian.T).T, dtype=np.float64)
    except np.linalg.LinAlgError as error:
        raise CrystalError(
            RejectionReason.ZERO_VOLUME, "the three lattice vectors lie in one plane", "check the lattice"
        ) from error


def _bad(message: str) -> CrystalError:
    return CrystalError(
        RejectionReason.UNREADABLE,
        f"not readable as poscar: {message}",
        "correct it by https://www.vasp.at/wiki/index.php/POSCAR, or write it again with pymatgen or ASE",
    )
