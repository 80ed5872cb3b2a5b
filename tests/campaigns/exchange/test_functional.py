"""Names of functionals from INCAR."""

from __future__ import annotations

import pytest

from campaigns.exchange.functional import functional_of, hubbard_u

NAMES = {
    "PBE": {},
    "PBEsol": {"GGA": "Ps"},
    "PBEsol+U": {"GGA": "PS", "LDAU": True, "LDAUU": [0, 5.3]},
    "PBE-D3(BJ)": {"IVDW": 12},
    "PBE+U-D3": {"LDAU": ".TRUE.", "LDAUU": "5.3 0", "IVDW": "11"},
    "R2SCAN": {"METAGGA": "R2scan", "GGA": "PE"},
    "hybrid PBE": {"LHFCALC": "T", "METAGGA": "None"},
    "GGA XX": {"GGA": "XX"},
    "PBE-IVDW99": {"IVDW": 99, "LDAU": True, "LDAUU": [0, 0]},
    "revPBE-vdW-DF": {"GGA": "RE", "LUSE_VDW": True},
}


@pytest.mark.parametrize("name", NAMES)
def test_names(name: str) -> None:
    assert functional_of(NAMES[name]) == name


def test_u_counts_only_where_it_is_on() -> None:
    assert hubbard_u({"LDAUU": [4.0], "LDAU": False}) == []
    assert hubbard_u({"LDAUU": "4 0", "LDAU": "T"}) == [4.0, 0.0]
