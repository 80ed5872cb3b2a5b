"""Costs are learned from the supercells that were calculated, not from those of the present settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from campaigns.campaign import Campaign
from campaigns.exceptions import ExchangeError
from campaigns.pool.costs import Costs
from campaigns.pool.exported_work import EXPORTS
from tests.campaigns.exchange.conftest import NACL, SILICON, imported, make_campaign, mark_done, write_kappa
from tests.campaigns.helpers import configure, done

pytest.importorskip("phono3py", reason="phono3py is not installed")


@pytest.mark.parametrize(
    ("dft", "calls", "atoms"),
    [
        ({}, 4, 8),
        ({"displacements": "systematic"}, 16, 8),
        ({"fc2_min_length": 7.0}, 4, 8),
    ],
)
def test_costs_stand_on_what_was_calculated(tmp_path: Path, dft: dict[str, Any], calls: int, atoms: int) -> None:
    directory = make_campaign(tmp_path, SILICON, NACL, **dft)
    done("queue", "withdraw", directory, NACL)
    done("queue", "export", directory, "--to", tmp_path / "out", "--format", "phono3py")
    (folder,) = (tmp_path / "out").glob("001-*")
    write_kappa(folder, 100.0)
    (folder / "TIMES").write_text("3600 8 2\n")  # 16 core-hours
    mark_done(folder)
    assert imported(directory, tmp_path / "out")["state"] == "done"
    with Campaign.open(directory) as campaign:
        same = Costs.now(campaign.workspace, lambda text: None)
    configure(directory, {"dft": {"min_length": 10.0, "displacements": "random"}})
    with Campaign.open(directory) as campaign:
        later = Costs.now(campaign.workspace, lambda text: None)
        key, other = campaign.store.material_index()
        (price,) = later.prices([key])
        assert later.estimated([key, other])[0] == pytest.approx(price.core_hours, rel=1e-6), "mean errors cancel"
    assert later.model == same.model
    whole = calls + (0 if "fc2_min_length" not in dft else 2 * (64 / atoms) ** 2)
    each = float(later.model.per_call(4 * atoms, atoms))
    assert 1.0 <= each / (16 / whole) < 1.2, "the mean of a log-normal"
    assert price.atoms == 64
    assert price.core_hours == pytest.approx(price.supercells * float(later.model.per_call(256, 64)))


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    directory = make_campaign(tmp_path, SILICON)
    done("queue", "export", directory, "--to", tmp_path / "out", "--format", "phono3py")
    (folder,) = (tmp_path / "out").glob("001-*")
    write_kappa(folder, 100.0)
    (folder / "TIMES").write_text("3600 8 2\n")
    mark_done(folder)
    imported(directory, tmp_path / "out")
    (kept,) = (directory / "artifacts" / EXPORTS).glob("*.json")
    kept.write_text(kept.read_text()[:-40])
    with Campaign.open(directory) as campaign, pytest.raises(ExchangeError, match=rf"{kept.name} is damaged"):
        Costs.now(campaign.workspace, lambda text: None)
