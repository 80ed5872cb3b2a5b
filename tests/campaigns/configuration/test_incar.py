"""INCAR tags that a user may set, and why others are refused."""

from __future__ import annotations

from typing import Any

import pytest

from campaigns.configuration import DftSection, check_configuration
from campaigns.exceptions import ConfigurationError

REFUSED_TAGS: dict[str, tuple[dict[str, Any], str]] = {
    "steps of the ions": ({"nsw": 100}, "NSW = 100"),
    "of one stage": ({"forces": {"IBRION": 2}}, "IBRION = 2"),
    "ISIF": ({"ISIF": 2}, "ISIF = 2"),
    "projection": ({"LREAL": "Auto"}, "LREAL = Auto"),
    "linear response": ({"relax": {"lepsilon": True}}, "LEPSILON = True"),
    "loose electrons": ({"EDIFF": 1e-6}, "1e-08 eV or tighter"),
    "loose electrons as text": ({"EDIFF": "1D-5"}, "1e-08 eV or tighter"),
    "an energy for an end": ({"EDIFFG": 1e-4}, "-0.001 eV/Angstrom"),
    "POTIM everywhere": ({"POTIM": 0.1}, "POTIM = 0.1"),
    "a density that stays": ({"ICHARG": 11}, "ICHARG = 11"),
    "a second line": ({"GGA": "PS\nNSW = 9"}, "one line of INCAR"),
    "a second tag": ({"GGA": "PS; NSW = 9"}, "one line of INCAR"),
    "a comment": ({"GGA": "PS ! of mine"}, "one line of INCAR"),
    "a name with a line": ({"GGA\nNSW": 9}, "not an INCAR tag"),
    "twice": ({"gga": "PS", "GGA": "PE"}, "GGA is given twice"),
    "an unknown stage": ({"kappa": {"NCORE": 4}}, "'kappa' is not a stage"),
    "a stage without tags": ({"born": 4}, "born = 4"),
}


@pytest.mark.parametrize("name", REFUSED_TAGS)
def test_tags_that_are_not_the_users(name: str) -> None:
    given, words = REFUSED_TAGS[name]
    with pytest.raises(ConfigurationError) as refusal:
        check_configuration({"dft": {"incar": given}}, "campaign.toml")
    assert words in str(refusal.value)
    assert "[dft.incar]" in str(refusal.value)


def test_tags_that_are_the_users() -> None:
    """A stage's own stand over the common ones; settings written and read again are the same."""
    given: dict[str, Any] = {
        "gga": "PS",
        "EDIFF": "1E-9",
        "NELM": 200,
        "relax": {"potim": 0.1, "NELM": 60},
        "born": {"MAGMOM": [5, -5]},
    }
    dft = DftSection(incar=given)
    common = {"GGA": "PS", "EDIFF": "1E-9", "NELM": 200}
    assert dft.incar_of("relax") == common | {"NELM": 60, "POTIM": 0.1}
    assert dft.incar_of("born") == common | {"MAGMOM": "5 -5"}
    assert dft.incar_of("forces") == common
    again = DftSection.model_validate_json(dft.model_dump_json())
    assert again == dft
