"""Labels of another functional or pseudopotential are named when a new one is imported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from campaigns.campaign import Campaign
from campaigns.exchange.comparability import Comparability
from db.records import LabelRecord
from tests.campaigns.exchange.conftest import GAAS, NACL, SILICON, make_campaign
from tests.campaigns.helpers import configure, done

SODIUM = {"name": "Na_pv", "sha256": "a" * 64, "titel": "PAW_PBE Na_pv 19Sep2006"}


def label(id_: str, functional: str | None, *potcar: dict[str, str], **fields: Any) -> LabelRecord:
    provenance: dict[str, Any] = {"settings_sha256": "x", "potcar": list(potcar)}
    provenance |= {} if functional is None else {"dft": {"functional": functional}}
    method = f"phono3py RTA, {functional}"
    given = {
        "method": method,
        "property": "kappa_300K",
        "unit": "W/(m K)",
        "fidelity": "dft",
        "provenance": provenance,
    } | fields
    return LabelRecord(material_id=id_, value=2.0, **given)


def test_what_does_not_compare_is_named(tmp_path: Path) -> None:
    directory = make_campaign(tmp_path, NACL, SILICON, GAAS)
    new = label(NACL, "PBEsol", SODIUM)
    with Campaign.open(directory) as campaign:
        store = campaign.store
        assert Comparability(store, "kappa_300K", "dft").remarks(new) == []
        own = label(NACL, "PBE", SODIUM)
        by_hand = label(SILICON, None, provenance={"paper": "one"})
        same = label(GAAS, "PBEsol+U-D3(BJ)")
        store.add_labels([own, by_hand, same])
        assert Comparability(store, "kappa_300K", "dft").remarks(new) == [], "of itself, of a person, by rule"
        assert Comparability(store, "kappa_300K", "dft").remarks(by_hand) == []
        store.add_labels([label(SILICON, "PBE", SODIUM | {"sha256": "b" * 64}), label(GAAS, None)])
        functional, potcar = Comparability(store, "kappa_300K", "dft").remarks(new)
        assert (
            "with PBEsol, and other labels of this campaign with PBE (1), settings without a preset (1)" in functional
        )
        assert "POTCAR of Na is PAW_PBE Na_pv 19Sep2006 (aaaaaaaa)" in potcar
        assert Comparability(store, "kappa_300K", "mlip").remarks(new) == []
    said = done("queue", "export", directory, "--to", tmp_path / "out", "--format", "vasp").err
    assert "computed with settings without a preset, and other labels of this campaign with PBE (2), PBEsol (1)" in said
    configure(directory, {"dft": {"preset": "phonon-pbe"}})
    said = done("queue", "export", directory, "--to", tmp_path / "other", "--format", "vasp").err
    assert "computed with PBE, and other labels" in said
