"""Whether new labels compare with those that a campaign has: functional and pseudopotentials."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from db.records import Json, LabelRecord

if TYPE_CHECKING:
    from campaigns.exchange.manifest import Entry, Method
    from campaigns.workspace import Workspace
    from db.store import Store

_UNNAMED = "settings without a preset"


def method_remarks(workspace: Workspace, planned: Iterable[Entry]) -> list[str]:
    """Notes on calculations that are about to be exported and on labels of the campaign with another functional."""
    property_ = workspace.configuration.campaign.property
    known: dict[str, Comparability] = {}
    found = []
    for entry in planned:
        if entry.fidelity not in known:
            known[entry.fidelity] = Comparability(workspace.store, property_, entry.fidelity)
        found += known[entry.fidelity].remarks_on_method(entry.settings.method)
    return list(dict.fromkeys(found))


class Comparability:
    """Functionals and pseudopotentials of the computed labels of one property at one fidelity."""

    def __init__(self, store: Store, property: str, fidelity: str):
        self._store, self._property, self._fidelity = store, property, fidelity
        self._known: list[tuple[str, Json]] | None = None

    def remarks(self, label: LabelRecord) -> list[str]:
        """Notes on labels of other materials that were computed otherwise; none for a label without a method."""
        own = label.provenance
        if "dft" not in own and "potcar" not in own:
            return []
        others = [provenance for material_id, provenance in self._of_campaign() if material_id != label.material_id]
        found = _of_functional(_functional(own), others)
        for element, (titel, digest) in _potcars(own).items():
            unlike = {t for o in others for t, d in [_potcars(o).get(element, (titel, digest))] if d != digest}
            if unlike:
                found.append(
                    f"the POTCAR of {element} is {titel} ({digest[:8]}), and other labels of this campaign have "
                    f"another: {', '.join(sorted(unlike))}"
                )
        return found

    def remarks_on_method(self, method: Method | None) -> list[str]:
        """Notes on labels with another functional than that of a calculation that is about to be exported."""
        dft = {} if method is None else {"dft": method.model_dump(mode="json")}
        return _of_functional(_functional(dft), [provenance for _, provenance in self._of_campaign()])

    def _of_campaign(self) -> list[tuple[str, Json]]:
        """Provenance of calculations that were exported, read once."""
        if self._known is None:
            labels = self._store.labels()
            kind = self._property, self._fidelity
            self._known = [
                (label.material_id, label.provenance)
                for label in labels
                if (label.property, label.fidelity) == kind and "settings_sha256" in label.provenance
            ]
        return self._known


def _of_functional(functional: str, others: Iterable[Json]) -> list[str]:
    different = Counter(name for other in others if (name := _functional(other)) != functional)
    listed = ", ".join(f"{name} ({count})" for name, count in sorted(different.items()))
    return [f"computed with {functional}, and other labels of this campaign with {listed}"] if different else []


def _functional(provenance: Json) -> str:
    """Functional without what depends on the crystal by rule: +U and the van der Waals correction."""
    method = provenance.get("dft")
    if not isinstance(method, dict):
        return _UNNAMED
    return str(method.get("functional", _UNNAMED)).partition(",")[0].partition("-D")[0].removesuffix("+U")


def _potcars(provenance: Json) -> dict[str, tuple[str, str]]:
    """TITEL and hash by element."""
    found = {}
    for row in provenance.get("potcar", ()):
        if element := re.match("[A-Z][a-z]?", str(row.get("name", ""))):
            found[element[0]] = str(row.get("titel")), str(row.get("sha256"))
    return found
