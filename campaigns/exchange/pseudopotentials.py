"""Names of pseudopotentials, and the TITEL that each has in a release; POTCAR files themselves are never written.

Names are those of pymatgen's input sets: ``MPRelaxSet``, and from the release PBE_54 on ``MPScanRelaxSet`` (``W_sv`` in
place of ``W_pv``, ``Yb_3`` in place of ``Yb_2``); TITEL lines are those of pymatgen's summary of all releases.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from campaigns.exceptions import ExchangeError
from campaigns.exchange.presets import choices_of

if TYPE_CHECKING:
    from campaigns.configuration import DftSection


@dataclass(frozen=True)
class Pseudopotential:
    """Pseudopotential of an element."""

    name: str
    """Folder of its POTCAR, ``W_sv``."""
    element: str
    titels: tuple[str, ...] = ()
    """TITEL lines of this name in the release, without spaces; none where no release is chosen, or it lacks the name.
    """


def pseudopotentials(elements: Sequence[str], dft: DftSection) -> list[Pseudopotential]:
    """Pseudopotentials of these elements, in their order.

    Raises
    ------
    ExchangeError
        If an element has none, with the setting that names one.
    """
    release = choices_of(dft).potcar_release
    known = names_of(release) | dft.potcar
    if missing := [symbol for symbol in elements if symbol not in known]:
        raise ExchangeError(
            f"{'MPRelaxSet' if release is None else f'the release {release}'} names no pseudopotential for "
            f'{", ".join(missing)}; name one in campaign.toml, e.g. [dft] potcar = {{ {missing[0]} = "{missing[0]}" }}'
        )
    titels = titels_of(release) if release else {}
    return [Pseudopotential(known[symbol], symbol, titels.get(known[symbol], ())) for symbol in elements]


def remarks(chosen: Iterable[Pseudopotential], dft: DftSection) -> list[str]:
    """Notes on names that the release does not have, and on ytterbium's."""
    release = choices_of(dft).potcar_release
    if release is None:
        return []
    found = []
    for one in chosen:
        if not one.titels:
            there = [name for name in titels_of(release) if name.split("_")[0] == one.element]
            found.append(
                f"[dft] potcar: {release} has no {one.name} (it has {', '.join(there) or 'none'}), so its TITEL is not "
                "compared"
            )
        if one.name == "Yb_3":
            found.append('Yb_3 is for trivalent Yb; for divalent Yb (YbO, YbTe) set [dft] potcar = { Yb = "Yb_2" }')
    return found


def names_of(release: str | None) -> dict[str, str]:
    """Names by element."""
    from pymatgen.io.vasp.sets import MPRelaxSet, MPScanRelaxSet

    # the names that MPRelaxSet has are those of the first release, which all are in PBE_52 too
    names = MPRelaxSet if release in (None, "PBE_52") else MPScanRelaxSet
    return dict(names.CONFIG["POTCAR"])


@lru_cache(maxsize=2)
def titels_of(release: str) -> dict[str, tuple[str, ...]]:
    """TITEL lines, without spaces, by name."""
    from monty.serialization import loadfn
    from pymatgen.io.vasp.inputs import POTCAR_STATS_PATH

    found: dict[str, list[str]] = {}
    for titel, data_sets in loadfn(POTCAR_STATS_PATH)[release].items():
        for each in data_sets:
            found.setdefault(each["symbol"], []).append(titel)
    return {name: tuple(dict.fromkeys(titels)) for name, titels in sorted(found.items())}
