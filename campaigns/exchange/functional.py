"""Name of a functional from INCAR tags: ``PBEsol``, ``PBE+U``, ``PBE-D3(BJ)``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_GGA = {"PE": "PBE", "PS": "PBEsol", "RP": "RPBE", "RE": "revPBE", "91": "PW91", "CA": "LDA", "AM": "AM05"}
_DISPERSION = {
    "1": "D2",
    "10": "D2",
    "11": "D3",
    "12": "D3(BJ)",
    "13": "D4",
    "2": "TS",
    "20": "TS",
    "21": "TS-HI",
    "4": "dDsC",
    "202": "MBD",
}
"""Van der Waals corrections by VASP's IVDW."""


def functional_of(incar: Mapping[str, object]) -> str:
    """Name of the functional; without GGA and METAGGA it is that of the pseudopotentials, PBE."""
    words = {tag: str(value).strip().upper() for tag, value in incar.items()}
    gga = words.get("GGA", "PE")
    name = words.get("METAGGA", "NONE")
    name = _GGA.get(gga, f"GGA {gga}") if name in ("NONE", "--") else name
    name = f"hybrid {name}" if is_on(words.get("LHFCALC")) else name
    name += "+U" if hubbard_u(incar) else ""
    correction = words.get("IVDW", "0")
    if correction not in ("0", "NONE"):
        name += f"-{_DISPERSION.get(correction, f'IVDW{correction}')}"
    return name + ("-vdW-DF" if is_on(words.get("LUSE_VDW")) else "")


def hubbard_u(incar: Mapping[str, object]) -> list[float]:
    """U in eV in the order of the elements in POSCAR; none where it is off."""
    given = incar.get("LDAUU")
    words = given.split() if isinstance(given, str) else given if isinstance(given, Sequence) else ()
    values = [float(word) for word in words]
    return values if is_on(incar.get("LDAU")) and any(values) else []


def is_on(value: object) -> bool:
    """Whether a logical tag is true, as VASP reads it."""
    return value is True or str(value).strip().lstrip(".").upper().startswith("T")
