"""Each defect is refused with its reason; sound crystals pass."""

from __future__ import annotations

import numpy as np
import pytest

from engine.exceptions import CrystalError
from engine.materials.checks import RejectionReason, check
from engine.materials.crystal import Crystal
from tests.engine.materials.cases import another_setting, rocksalt, rutile, silicon_carbide, zincblende

CUBE = 4.0 * np.eye(3)
ORIGIN = [[0.0, 0.0, 0.0]]

DEFECTS = [
    (Crystal(CUBE, [], []), {}, RejectionReason.MISSING_FIELD),
    (Crystal(CUBE * np.nan, [12], ORIGIN), {}, RejectionReason.NOT_FINITE),
    (Crystal(CUBE, [12], [[0, 0, np.inf]]), {}, RejectionReason.NOT_FINITE),
    (Crystal(CUBE, [0], ORIGIN), {}, RejectionReason.UNKNOWN_ELEMENT),
    (Crystal(CUBE, [104], ORIGIN), {}, RejectionReason.UNKNOWN_ELEMENT),
    (rocksalt(), {"allowed_elements": {"Mg", "S"}}, RejectionReason.UNKNOWN_ELEMENT),
    (Crystal(np.zeros((3, 3)), [12], ORIGIN), {}, RejectionReason.ZERO_VOLUME),
    (Crystal([[4, 0, 0], [0, 4, 0], [4, 4, 0]], [12], ORIGIN), {}, RejectionReason.ZERO_VOLUME),
    (Crystal(CUBE, [12, 8], [[0, 0, 0], [0, 0, 0.05]]), {}, RejectionReason.OVERLAPPING_ATOMS),
    (Crystal(CUBE, [12, 8], [[0, 0, 0.01], [0, 0, 0.99]]), {}, RejectionReason.OVERLAPPING_ATOMS),
    (Crystal(CUBE, [12, 12], ORIGIN * 2), {}, RejectionReason.OVERLAPPING_ATOMS),
    (Crystal(np.diag([0.4, 8, 8]), [1], ORIGIN), {}, RejectionReason.OVERLAPPING_ATOMS),
    (Crystal(400 * np.eye(3), [12], ORIGIN), {}, RejectionReason.IMPLAUSIBLE_DENSITY),
    (rocksalt(0.4212), {}, RejectionReason.IMPLAUSIBLE_DENSITY),
    (rutile(), {"max_sites": 5}, RejectionReason.TOO_MANY_SITES),
]


@pytest.mark.parametrize(("crystal", "limits", "reason"), DEFECTS)
def test_defects_are_refused(crystal: Crystal, limits: dict, reason: RejectionReason) -> None:
    with pytest.raises(CrystalError) as caught:
        check(crystal, **limits)
    assert caught.value.reason == reason
    assert caught.value.message
    assert caught.value.remedy


@pytest.mark.parametrize("crystal", [rocksalt(), zincblende(), rutile(), silicon_carbide("ABCACB")])
def test_sound_crystals_pass_in_any_cell(crystal: Crystal) -> None:
    check(crystal, allowed_elements={"Mg", "O", "Si", "C", "Ti"}, max_sites=12)
    check(another_setting(crystal, np.random.default_rng(1)))


def test_hydrogen_molecules_are_allowed() -> None:
    check(Crystal(np.diag([3.0, 3.0, 3.0]), [1, 1], [[0, 0, 0], [0.247, 0, 0]]))


def test_every_reason_has_a_sentence() -> None:
    assert all(reason.sentence.endswith(".") for reason in RejectionReason)


def test_noble_gas_formulas_do_not_warn() -> None:
    assert Crystal(CUBE, [10], ORIGIN).formula == "Ne"
    assert Crystal(CUBE, [2, 10], [[0, 0, 0], [0.5, 0.5, 0.5]]).formula
