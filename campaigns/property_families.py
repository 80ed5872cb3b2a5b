"""Which names of properties mean one property, and which properties come from one calculation."""

from __future__ import annotations

import re
import unicodedata

from campaigns.property_names import ROOM_TEMPERATURE, Property

FAMILIES: dict[str, tuple[str, ...]] = {
    "AGL and AEL": (
        "agl", "ael", "debye", "gruneisen", "thermal expansion", "heat capacity", "poisson ratio", "young modulus",
        *(f"{kind} modulus {mean}" for kind in ("bulk", "shear") for mean in ("vrh", "voigt", "reuss")),
        "bulk modulus static", "bulk modulus isothermal", "speed of sound", "sound velocity",
    ),
    "lattice thermal conductivity": (
        "kappa", "phonon lifetime", "phonon linewidth", "phonon scattering", "phonon mean free path",
    ),
}  # fmt: skip
"""Words in the names of each family; the first family that matches counts."""
_SAME_WORDS = (
    (r"lattice thermal conductivity|thermal conductivity|\bltc\b|\bk?latt?\b", "kappa"),
    (r"\bgrueneisen\b", "gruneisen"),
    (r"\bmoduli\b", "modulus"),
)
_NO_MEANING = {
    "k", "w", "m", "mk", "wmk", "wm", "mw", "gpa", "pa", "ev", "mev", "thz", "cm", "1", "angstrom", "at", "t",
    "scaled", "normalised", "normalized", "log", "log10", "ln", "coefficient", "parameter",
}  # fmt: skip


def canonical(name: str) -> str:
    """Words of a property's name without unit, temperature and scaling, in a normal form."""
    plain = unicodedata.normalize("NFKD", name.replace("κ", "kappa")).encode("ascii", "ignore").decode().lower()
    words = [w for w in re.split(r"[^a-z0-9]+", plain) if w not in _NO_MEANING and not re.fullmatch(r"\d+k?", w)]
    text = " ".join(words)
    for pattern, word in _SAME_WORDS:
        text = re.sub(pattern, word, text)
    return " ".join(text.split()) or plain


def family(name: str) -> str | None:
    """Family of a property, or None."""
    text = f" {canonical(name)} "
    return next((f for f, stems in FAMILIES.items() if any(f" {stem} " in text for stem in stems)), None)


def is_same_property(name: str, other: str) -> bool:
    """Whether two names mean one property: unit and spelling do not matter, the temperature of a conductivity does."""
    one, two = (Property(each).temperature or ROOM_TEMPERATURE for each in (name, other))
    return canonical(name) == canonical(other) and one == two
