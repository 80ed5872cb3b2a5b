"""One data block of a CIF as tags and values, for several dialects.

Read by gemmi (https://gemmi.readthedocs.io/en/latest/cif.html), which is strict; other dialects are converted to
CIF 1.1 before: signs and spaces that are not ASCII, dotted tags of DDLm and mmCIF, lists of CIF 2.0, and values of
several words without quotes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import cast

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason
from engine.materials.parsing import as_text, first_line

_SIGNS = str.maketrans(
    {
        **dict.fromkeys("−–‐‑‒﹣－", "-"),
        **dict.fromkeys("＋﹢", "+"),
        **dict.fromkeys("\u00a0\u2007\u2009\u202f\ufeff", " "),
    }
)
"""Minus signs, plus signs and spaces that word processors and web pages put in place of the ASCII ones."""
_UNQUOTED = re.compile(r"^([ \t]*_\S+)[ \t]+([^\s'\"_;#][^\n'\"#]*?[ \t]+[^\n'\"#]*?)[ \t]*(#.*)?$", re.MULTILINE)
_LIST = re.compile(r"\[\s*([^\[\]\s]+)\s+([^\[\]\s]+)\s+([^\[\]\s]+)\s*\]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?(\(\d+\))?")


@dataclass(frozen=True)
class Block:
    """Tags in lower case with ``_`` for ``.``; single values and columns of loops alike, as in the file."""

    name: str
    columns: dict[str, list[str]]

    @classmethod
    def parse(cls, payload: bytes) -> Block:
        """Read the first block of a text.

        Raises
        ------
        CrystalError
            If it is not a CIF.
        """
        from gemmi import cif

        text = as_text(payload).translate(_SIGNS)
        if text.lstrip().startswith("#\\#CIF_2.0"):
            text = re.sub(r"^([ \t]*_atom_site)\.fract_xyz\b", _three_columns, text, flags=re.MULTILINE | re.IGNORECASE)
            text = _LIST.sub(r"\1 \2 \3", text)
        text = text.encode("ascii", "replace").decode("ascii")
        try:
            try:
                document = cif.read_string(text)
            except ValueError:
                # `_symmetry_space_group_name_H-M F d -3 m`: the rest of the line after a tag can only be its value
                document = cif.read_string(_UNQUOTED.sub(r"\1 '\2'", text))
        except (ValueError, RuntimeError) as error:
            raise CrystalError(
                RejectionReason.UNREADABLE,
                f"not readable as cif: {first_line(error).removeprefix('string:')} (line:column in the block)",
                "correct the block there, or write it again with pymatgen, ASE or VESTA",
            ) from error
        columns: dict[str, list[str]] = {}
        first = document[0]
        for item in first:
            if item.pair is not None:
                tag, value = cast("tuple[str, str]", item.pair)
                columns[_plain(tag)] = [value]
            elif item.loop is not None:
                tags, values = item.loop.tags, list(item.loop.values)
                for n, tag in enumerate(tags):
                    columns[_plain(tag)] = values[n :: len(tags)]
        return cls(first.name.strip(), columns)

    def has(self, *tags: str) -> bool:
        """Whether any of the tags is present."""
        return any(tag in self.columns for tag in tags)

    def column(self, *tags: str) -> list[str]:
        """Values of the first tag that is present, without quotes; ``.`` and ``?`` are empty text."""
        from gemmi import cif

        found = next((self.columns[tag] for tag in tags if tag in self.columns), [])
        return [cif.as_string(value).strip() for value in found]

    def text(self, *tags: str) -> str:
        """The first known value under any of the tags; empty if none."""
        return next((value for tag in tags for value in self.column(tag) if value), "")

    def number(self, *tags: str) -> float | None:
        """The same as a number without its standard uncertainty; None if there is none.

        Raises
        ------
        CrystalError
            If there is a value that is not a number.
        """
        value = self.text(*tags)
        return as_number(value, tags[0]) if value else None


def as_number(value: str, tag: str) -> float:
    """Number of a CIF, standard uncertainty left out (``5.431(2)``).

    Raises
    ------
    CrystalError
        If it is not a number.
    """
    match = _NUMBER.fullmatch(value)
    if match is None:
        raise CrystalError(
            RejectionReason.UNREADABLE,
            f"{tag} is {value!r}, which is not a number",
            "write plain numbers such as -0.25 or 5.431(2), with a point and an ASCII minus",
        )
    return float(value.partition("(")[0])


def decimals(value: str) -> int:
    """Significant digits after the decimal point: ``0.3333`` and ``0.333300`` have four."""
    mantissa, _, exponent = value.partition("(")[0].lower().partition("e")
    return max(0, len(mantissa.partition(".")[2].rstrip("0")) - int(exponent or 0))


def _plain(tag: str) -> str:
    return tag.lower().replace(".", "_")


def _three_columns(match: re.Match[str]) -> str:
    return " ".join(f"{match[1]}.fract_{axis}" for axis in "xyz")
