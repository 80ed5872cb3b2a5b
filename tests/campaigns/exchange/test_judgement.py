"""Which values are taken for a conductivity of a crystal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from campaigns.exchange.judgement import Subject, judge, remarks
from campaigns.exchange.kappa_files import Kappa
from db.states import FailureReason
from engine.materials.crystal import Crystal


def crystal(*edges: float) -> Crystal:
    return Crystal.from_symbols(np.diag(edges), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])


CUBIC, TETRAGONAL, ORTHORHOMBIC = crystal(4.1, 4.1, 4.1), crystal(4.1, 4.1, 4.3), crystal(4.1, 4.3, 4.6)


def kappa(*tensor: float, **fields: Any) -> Kappa:
    given = {
        "name": "kappa-m555.hdf5",
        "sha256": "0",
        "written_at": "2026-01-01T00:00:00+00:00",
        "temperatures": np.array([300.0]),
        "tensors": np.array([[*tensor, *[0.0] * (6 - len(tensor))]]),
        "terms": {},
        "mesh": (5, 5, 5),
        "version": "4.8.2",
        "frequencies": (0.0, 5.0),
        "bands": 6,
        "q_points": 10,
        "parts": {},
        "numbers": {},
        "accumulated": {},
    }
    return Kappa(**(given | fields))


def judged(value: Kappa, of: Crystal = CUBIC, *, oriented: bool = True) -> list[FailureReason | None]:
    return [p.reason for p in judge(value, [300.0], Subject(of, oriented, 0.1))]


BAD, FLOOR, IMAGINARY = FailureReason.BAD_OUTPUT, FailureReason.BELOW_FLOOR, FailureReason.IMAGINARY_MODES
VALUES: dict[str, tuple[tuple[float, ...], Crystal, list[Any], list[Any]]] = {
    "cubic": ((5, 5, 5), CUBIC, [], []),
    "nearly cubic": ((5, 5.1, 4.95, 0.1), CUBIC, [], []),
    "one apart": ((5, 5, 6), CUBIC, [None], [None]),
    "shear": ((5, 5, 5, 1), CUBIC, [None], [None]),
    "tetragonal": ((5, 5, 9), TETRAGONAL, [], []),
    "another axis": ((5, 9, 5), TETRAGONAL, [None], []),
    "no axis": ((5, 7, 9), TETRAGONAL, [None], [None]),
    "orthorhombic": ((5, 7, 9), ORTHORHOMBIC, [], []),
    "turned orthorhombic": ((5, 7, 9, 0, 0, 2), ORTHORHOMBIC, [None], []),
    "negative component": ((-100, 200, 200), CUBIC, [None], [None]),
    "not definite": ((5, 5, 5, 6), CUBIC, [None], [None]),
    "zero component": ((0, 5, 5), ORTHORHOMBIC, [None], [None]),
    "negative": ((-4, 1, 0), CUBIC, [FLOOR], [FLOOR]),
    "zero": ((0, 0, 0), CUBIC, [FLOOR], [FLOOR]),
    "nan": ((np.nan, 5, 5), CUBIC, [BAD], [BAD]),
    "nan beside": ((5, 5, 5, np.nan), CUBIC, [BAD], [BAD]),
    "infinite": ((np.inf, 5, 5), CUBIC, [BAD], [BAD]),
    "enormous": ((1e12, 1e12, 1e12), CUBIC, [None], [None]),
}
"""Tensor, crystal, what is wrong in the orientation of the calculation and in an unknown one."""


@pytest.mark.parametrize("name", VALUES)
def test_values(name: str) -> None:
    tensor, of, oriented, unoriented = VALUES[name]
    assert judged(kappa(*tensor), of) == oriented
    assert judged(kappa(*tensor), of, oriented=False) == unoriented


MODES: dict[str, tuple[dict[str, Any], list[Any]]] = {
    "fifteen bands": ({"bands": 15}, [None]),
    "three bands": ({"bands": 3}, [None]),
    "cut down": ({"bands": 3, "q_points": 1}, []),
    "more than there are": ({"bands": 15, "q_points": 1}, [None]),
    "one q-point is the mesh": ({"bands": 3, "q_points": 1, "mesh": (1, 1, 1)}, [None]),
    "none kept": ({"bands": None, "q_points": 0, "frequencies": None}, []),
    "nan": ({"frequencies": (np.nan, np.nan)}, [BAD]),
    "imaginary": ({"frequencies": (-3.0, 5.0)}, [IMAGINARY]),
    "within tolerance": ({"frequencies": (-0.05, 5.0)}, []),
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("oriented", [True, False])
def test_modes(name: str, oriented: bool) -> None:
    fields, reasons = MODES[name]
    assert judged(kappa(5, 5, 5, **fields), oriented=oriented) == reasons


def test_what_has_no_value_is_final() -> None:
    def final(value: Kappa) -> list[bool]:
        return [p.is_final for p in judge(value, [300.0], Subject(CUBIC, True, 0.1))]

    assert final(kappa(np.nan, 5, 5)) == [True]
    assert final(kappa(0, 0, 0)) == [True]
    assert final(kappa(5, 5, 9, bands=15)) == [False, False]


@pytest.mark.parametrize(("value", "said"), [(0.005, True), (0.02, False), (4_000.0, False), (7_000.0, True)])
def test_unusual_values_are_taken_and_said(value: float, said: bool) -> None:
    assert not judged(kappa(value, value, value))
    assert ["outside" in words for words in remarks(kappa(value, value, value), [300.0])] == ([True] if said else [])


def test_a_doubtful_version_and_strangers_are_said() -> None:
    said = remarks(kappa(5, 5, 5, version="3.20.0", strangers=("comment",)), [300.0])
    assert ["3.20.0" in said[0], "comment" in said[1]] == [True, True]
