"""Slopes of curves and what a label is worth, on curves that are known."""

from __future__ import annotations

import pytest

from campaigns.studies.learning_curves import exchange, power_law, surface


def test_slopes_and_worth_of_known_curves():
    noise = [0.0, 0.01, -0.01]
    rows = [
        {"method": "gp", "draw": d, "n": n, "m": m, "mae": (1 + noise[d]) * 0.8 * n**-0.4 * (m or 30) ** -0.1}
        for d in range(3)
        for n in (10, 30, 100)
        for m in (0, 100, 1000)
    ]
    fit = power_law([r for r in rows if r["m"] == 100], "n")
    assert fit["slope"] == pytest.approx(-0.4)
    assert fit["interval"] == pytest.approx([-0.4, -0.4])
    plane = surface(rows, "gp")
    # (b / n) / (c / m) at 50 and 1,000
    assert plane["agl_labels_for_one_target_label"] == pytest.approx(0.4 / 50 / (0.1 / 1000))
    saved = {(r["n"], r["m"]): r["labels_saved"] for r in exchange(rows, "gp")}
    # 30 labels with 1,000 of AGL do what 30 * (1000 / 30)^(1/4) do without
    assert saved[30, 1000] == pytest.approx(30 * (1000 / 30) ** 0.25 - 30)
    assert saved[100, 1000] == pytest.approx(100 * (1000 / 30) ** 0.25 - 100)
