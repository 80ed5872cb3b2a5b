"""Properties by name: conductivity or not, temperature, unit and scale; and names close to another."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from campaigns.exceptions import PropertyNameError
from db.records import KAPPA_UNIT

ROOM_TEMPERATURE = 300.0
"""Temperature in kelvin of a conductivity whose name gives none."""
_UNIT = re.compile(r"[mk]?W[\W_]*c?m[\W_]*1?[\W_]*K(?:[\W_]*1)?(?![A-Za-z0-9])")
"""W/(m K) in names: W_mK, W_m_K, W_m-1K-1."""
_KELVIN = re.compile(r"(?<![\d.])(\d[\dOoIl.,]*(?:[eE][+-]?\d+)?)[ _]?([Kk])(?![A-Za-z0-9])")
"""A number of kelvin in a conductivity's name, mistyped ones too (30OK, 300k, 1,000K)."""
_PLAIN_KELVIN = re.compile(r"(?<![^_])(\d+(?:\.\d+)?)(K)(?![^_])")
"""A word of any other name that is a number of kelvin: heat_capacity_300K."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_NOT_LETTERS = re.compile(r"[\W_]?\d+(?:\.\d+)?(?![A-Za-z\d.])|\d+(?:\.\d+)?")
"""Numbers, each with the sign before it where it is a separate word."""
_SHORT = 2
"""Longest words that are never taken for typing errors: kappa_xx, kappa_xy."""


@dataclass(frozen=True)
class Property:
    """A property by its name."""

    name: str

    @property
    def is_conductivity(self) -> bool:
        """Whether it is a lattice thermal conductivity."""
        return self.name.startswith("kappa")

    @property
    def unit(self) -> str:
        """Unit of its values; empty where the name does not give it."""
        return KAPPA_UNIT if self.is_conductivity else ""

    @property
    def scale(self) -> Literal["log10", "linear"]:
        """Default scale that it is learned on: log10 for conductivities, which span decades."""
        return "log10" if self.is_conductivity else "linear"

    @cached_property
    def temperature(self) -> float | None:
        """Temperature in its name, Kelvin: 600 of ``kappa_600K_W_mK``; None if it names none.

        Raises
        ------
        PropertyNameError
            If the name of a conductivity holds two, or one that cannot be read.
        """
        if not self.is_conductivity:
            named = {float(match[1]) for match in _PLAIN_KELVIN.finditer(self.name)}
            return named.pop() if len(named) == 1 else None
        matches = list(_KELVIN.finditer(_UNIT.sub("_", self.name)))
        for match in matches:
            if match[2] == "k" or not _is_above_zero(match[1]):
                raise PropertyNameError(
                    f"cannot read the temperature {match[0]!r} in {self.name!r}; write it as in kappa_300K"
                )
        if len(temperatures := {float(match[1]): match[0] for match in matches}) > 1:
            raise PropertyNameError(
                f"{self.name!r} names {len(temperatures)} temperatures, {' and '.join(temperatures.values())}; keep "
                "the one that its values are at"
            )
        return next(iter(temperatures), None)

    def at(self, temperature: float) -> str:
        """Name of the same quantity at another temperature (Kelvin)."""
        pattern = _KELVIN if self.is_conductivity else _PLAIN_KELVIN
        return pattern.sub(f"{temperature:g}K", self.name)


def named_temperature(name: str) -> float:
    """Temperature that a property's name gives (``kappa_600K_W_mK``), Kelvin; 300 K where it gives none."""
    named = Property(name).temperature
    return ROOM_TEMPERATURE if named is None else named


def probably_meant(name: str, known: Iterable[str]) -> str | None:
    """Find the known name that an unknown one is probably a typing error of: one character or the case differs.

    Other numbers make another name (``kappa_400K``), and so do other words of one or two letters (``kappa_xx``
    and ``kappa_xy``). None if the name is known, or near to none.
    """
    names = sorted(set(known))
    letters = _letters(name)
    if any(_letters(other) == letters for other in names):
        return None
    near = [other for other in names if _is_near(name, other)]
    same = [other for other in near if _letters(other).lower() == letters.lower()]
    meant = next(iter(same or near), None)
    return None if meant is None else _with_numbers(meant, _NUMBER.findall(name))


def _is_above_zero(text: str) -> bool:
    try:
        return 0 < float(text) < float("inf")
    except ValueError:
        return False


def _is_near(name: str, other: str) -> bool:
    one, two = _letters(name).lower(), _letters(other).lower()
    if one == two:
        return True
    if max(len(one), len(two)) <= _SHORT:
        return False
    if not _is_one_edit(one, two) and not _is_one_edit(name.lower(), other.lower()):
        return False
    words = [re.split(r"[\W_]+", text) for text in (name, other)]
    if len(words[0]) != len(words[1]):
        return True
    unlike = [max(len(a), len(b)) for a, b in zip(*words, strict=True) if _letters(a) != _letters(b)]
    return len(unlike) != 1 or unlike[0] > _SHORT


def _letters(name: str) -> str:
    return _NOT_LETTERS.sub("", name)


def _is_one_edit(one: str, two: str) -> bool:
    """Whether one character changed, added, left out, or exchanged with the next makes one text the other."""
    start = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    a, b = one[start:], two[start:]
    exchanged = a[:2] == b[1::-1] and a[2:] == b[2:]
    return a[1:] == b[1:] or a[1:] == b or a == b[1:] or exchanged


def _with_numbers(name: str, numbers: list[str]) -> str:
    """Replace the numbers in a name by those of another name that has as many."""
    if len(_NUMBER.findall(name)) != len(numbers):
        return name
    left = iter(numbers)
    return _NUMBER.sub(lambda _: next(left), name)
