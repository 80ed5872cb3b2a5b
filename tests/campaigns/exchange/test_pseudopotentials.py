"""Names of pseudopotentials exist in their release, and have the TITEL of it."""

from __future__ import annotations

from typing import get_args

import pytest

from campaigns.configuration import DftSection
from campaigns.exceptions import ExchangeError
from campaigns.exchange.pseudopotentials import names_of, pseudopotentials, remarks, titels_of

(CHOICES, _) = get_args(DftSection.model_fields["potcar_release"].annotation)
RELEASES = get_args(CHOICES)


@pytest.mark.parametrize("release", RELEASES)
def test_every_name_is_in_its_release(release: str) -> None:
    names = names_of(release)
    titels = titels_of(release)
    assert [name for name in names.values() if name not in titels] == []
    assert all(name.split("_")[0] == element for element, name in names.items())
    chosen = pseudopotentials(list(names), DftSection(potcar_release=release))
    assert all(each.titels for each in chosen)


def test_what_changed_between_releases() -> None:
    assert [names_of(release)["W"] for release in RELEASES] == ["W_pv", "W_sv", "W_sv"]
    assert [names_of(release)["Yb"] for release in RELEASES] == ["Yb_2", "Yb_3", "Yb_3"]
    assert "W_pv" not in titels_of("PBE_54")
    assert titels_of("PBE_54")["Cs_sv"] != titels_of("PBE_64")["Cs_sv"]
    assert titels_of("PBE_54")["Si"] == titels_of("PBE_64")["Si"] == ("PAW_PBESi05Jan2001",)


def test_the_users_name_is_used_and_one_that_is_not_there_is_said() -> None:
    dft = DftSection(preset="phonon-pbesol", potcar={"Ga": "Ga_own", "As": "As_d"})
    chosen = pseudopotentials(["Ga", "As"], dft)
    assert [(each.name, bool(each.titels)) for each in chosen] == [("Ga_own", False), ("As_d", True)]
    (note,) = remarks(chosen, dft)
    assert "PBE_54 has no Ga_own (it has Ga, Ga_GW, Ga_d" in note
    assert remarks(chosen, DftSection(potcar={"Ga": "Ga_own"})) == []
    ytterbium = DftSection(potcar_release="PBE_64")
    assert "Yb_2" in " ".join(remarks(pseudopotentials(["Yb"], ytterbium), ytterbium))


def test_an_element_without_a_pseudopotential_is_refused() -> None:
    with pytest.raises(ExchangeError, match=r"release PBE_54 names no pseudopotential for Md; .*Md = \"Md\""):
        pseudopotentials(["Si", "Md"], DftSection(preset="phonon-pbe"))
