"""Space groups that relaxation may reach without a loss."""

from __future__ import annotations

import pytest

from campaigns.exchange.supergroups import supergroups


@pytest.mark.parametrize(
    ("number", "reached", "lost"),
    [
        pytest.param(227, {227}, {216, 203, 141, 166, 1}, id="diamond"),
        pytest.param(216, {216, 225, 227}, {160, 119, 43}, id="zincblende"),
        pytest.param(99, {99, 123, 221}, {75, 38, 25}, id="tetragonal ferroelectric"),
        pytest.param(160, {160, 166, 221, 216}, {146, 8}, id="rhombohedral"),
        pytest.param(62, {62, 63, 140, 221}, {14, 33, 4}, id="perovskite Pnma"),
        pytest.param(186, {186, 194}, {216, 36, 159}, id="wurtzite"),
        pytest.param(1, set(range(1, 231)), set(), id="none"),
    ],
)
def test_what_is_gained_and_what_is_lost(number: int, reached: set[int], lost: set[int]) -> None:
    found = supergroups(number)
    assert reached <= set(found)
    assert not lost & set(found)
    assert list(found) == sorted(set(found))
