"""Numbers as text: three significant digits and a unit."""

from __future__ import annotations

import numpy as np

NONE = "–"


def significant(value: float | None, unit: str = "") -> str:
    """Three significant digits and the unit; a dash for None."""
    if value is None or not np.isfinite(value):
        return NONE
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        text = f"{value:.2e}"
    else:
        text = np.format_float_positional(float(f"{value:.2e}"), trim="-")
    return f"{text} {unit}".rstrip()


def interval(mean: float | None, lower: float | None, upper: float | None) -> str:
    """Write a mean and its 90 % interval: ``0.8 (0.4 to 1.5)``."""
    if mean is None:
        return NONE
    return f"{significant(mean)} ({significant(lower)} to {significant(upper)})"


def hours(core_hours: float | None) -> str:
    """Core-hours: whole from 100 on, else three significant digits."""
    return significant(core_hours) if core_hours is None or core_hours < 100 else f"{core_hours:,.0f}"


def in_unit(unit: str) -> str:
    """Text after the name of a quantity: `` in W/(m K)``."""
    return f" in {unit}" if unit else ""


def percent(share: float | None) -> str:
    """Write a share as a whole percentage."""
    return NONE if share is None else f"{share:.0%}".replace("%", " %")


def count(number: int, noun: str, plural: str = "") -> str:
    """``1 round``, ``3 rounds``, ``12,345 materials``."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def unbroken(text: str) -> str:
    """The text with no line break between a number and its unit."""
    return text.replace(" %", "\u00a0%").replace("W/(m K)", "W/(m\u00a0K)")
