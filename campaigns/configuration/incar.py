"""``[dft] incar``: the user's INCAR tags, for all stages or one, and which tags are refused, with the reason."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal, get_args

Stage = Literal["relax", "born", "forces"]
Value = str | int | float | bool
Tags = dict[str, Value]

EDIFF = 1e-8
"""eV; loosest electronic convergence for force constants."""
EDIFFG = -1e-3
"""eV/Angstrom, negative as in VASP; loosest convergence of forces in the relaxation."""
_DECIDED = {
    "NSW": "the number of ionic steps makes a stage a relaxation or a static run",
    "IBRION": "it makes a stage a relaxation or a static run",
    "ISIF": "it sets what relaxes: ions and cell in the relaxation, neither in static runs",
    "LREAL": "forces for force constants need projection in reciprocal space",
    "LEPSILON": "it makes the Born stage",
    "LCALCEPS": "it makes a stage the Born stage",
    "IMAGES": "it makes a stage a path of several cells",
    "EDIFF_PER_ATOM": "convergence is set by EDIFF here",
}
"""Tags that define a stage, each with the reason."""
_NAME = re.compile(r"[A-Z][A-Z0-9_]*(/[A-Z][A-Z0-9_]*)*")


def checked_incar(given: Mapping[str, object]) -> dict[str, Value | Tags]:
    """INCAR tags in capitals and lists as text; tables named after a stage hold the tags of that stage.

    Raises
    ------
    ValueError
        If a tag defines a stage, is looser than force constants allow, or is not one line of INCAR.
    """
    common = {key: value for key, value in given.items() if not isinstance(value, Mapping)}
    found: dict[str, Value | Tags] = {**_checked(common, "")}
    for key, value in given.items():
        if isinstance(value, Mapping):
            if key not in get_args(Stage):
                raise ValueError(f"{key!r} is not a stage; a table may be named {', '.join(get_args(Stage))}")
            found[key] = _checked(value, key)
    return found


def _checked(given: Mapping[str, object], stage: str) -> Tags:
    tags: Tags = {}
    for key, value in given.items():
        tag = key.strip().upper()
        if tag.lower() in get_args(Stage):
            raise ValueError(f"{key} = {value!r}: a stage has a table of tags, {key} = {{ TAG = value }}")
        if not _NAME.fullmatch(tag):
            raise ValueError(f"{key!r} is not an INCAR tag")
        if tag in tags:
            raise ValueError(f"{tag} is given twice; capitals and small letters are the same tag")
        tags[tag] = _written(tag, value)
        if reason := _refusal(tag, tags[tag], stage):
            raise ValueError(f"{tag} = {value}: {reason}")
    return tags


def _written(tag: str, value: object) -> Value:
    """The value as one line of INCAR."""
    if isinstance(value, list | tuple) and value and all(isinstance(v, int | float | str) for v in value):
        value = " ".join(map(str, value))
    if not isinstance(value, str | int | float | bool):
        raise ValueError(f"{tag} = {value!r}: give text, a number, true or false, or a list of numbers")
    if isinstance(value, str) and (not value.strip() or re.search(r"[\x00-\x1f\x7f;#!=\\\"{}]", value)):
        raise ValueError(f"{tag} = {value!r}: a value is one line of INCAR without ; # ! = or quotes")
    return value


def _refusal(tag: str, value: Value, stage: str) -> str:
    """Why a tag is refused; empty if it is accepted."""
    if tag in _DECIDED:
        return f"{_DECIDED[tag]}, so each stage has its own; leave it out"
    if tag == "POTIM" and stage != "relax":
        return "it scales the steps of the relaxation and means nothing elsewhere; give it as relax = { POTIM = ... }"
    if tag == "ICHARG" and not (_number(value) or 0) < 10:
        return "values from 10 on keep the charge density fixed, and forces are wrong; leave it out"
    if tag == "EDIFF" and not 0 < (_number(value) or 0) <= EDIFF:
        return f"force constants need {EDIFF:g} eV or tighter; leave it out, or give a smaller one"
    if tag == "EDIFFG" and not EDIFFG <= (_number(value) or 0) < 0:
        return f"cells are relaxed to {EDIFFG:g} eV/Angstrom or tighter; leave it out, or give one nearer to zero"
    return ""


def _number(value: Value) -> float | None:
    """Read a number, with Fortran's exponents; None for anything else."""
    try:
        return float(re.sub("[dD]", "e", value) if isinstance(value, str) else value)
    except ValueError:
        return None
