"""Nothing is written that would compute another material than the one that is wanted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest

from campaigns.campaign import Campaign
from campaigns.configuration import CampaignSection, DftSection
from campaigns.exceptions import ExchangeError
from campaigns.exchange.calculation import Plan, plan_calculation
from campaigns.intake.adding import material_record
from campaigns.pool.costs import Costs
from db.records import QueueEntryRecord
from engine.materials.identity import identify
from tests.engine.materials.cases import rocksalt


@pytest.mark.parametrize("workflow", ["phono3py", "vasp"])
def test_isotopes_are_not_calculated_with_natural_masses(workflow: Literal["phono3py", "vasp"], empty: Path) -> None:
    heavy = material_record(identify("LiD", rocksalt(4.08, "Li", "H"), isotopes="2H"))
    campaign = CampaignSection(name="c", goal="min", property="kappa_300K")
    entry = QueueEntryRecord(1, "LiD", fidelity="dft", round=1)
    with Campaign.open(empty) as opened:
        plan = Plan(campaign, DftSection(), workflow, Costs.now(opened.workspace, lambda text: None))
    with pytest.raises(ExchangeError, match=r"2H.*natural masses"):
        plan_calculation(entry, heavy, plan)
    light = replace(heavy, bucket=heavy.bucket.removesuffix("|2H"))
    assert plan_calculation(entry, light, replace(plan, workflow="vasp")).entry.formula == "LiH"
