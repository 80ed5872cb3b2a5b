import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from campaigns.campaign import Campaign
from campaigns.demo import BATCH, NAME, QUEUE, ROUNDS, run_demo
from campaigns.exceptions import CampaignError
from db.states import QueueState
from engine.materials.candidates import SUBSTITUTION


@pytest.mark.slow
def test_demo_rehearses_ranks_exports_and_reports(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "campaigns", "demo", "d"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "d"
    assert done.stdout.rstrip().endswith("report: d/report.html\nqueue:  d/queue")
    assert len(list((folder / "queue").glob("*.cif"))) == QUEUE
    assert (folder / "report.html").stat().st_size > 1_000_000
    with Campaign.open(folder) as campaign:
        assert [len(campaign.store.queue(round=n)) for n in range(1, ROUNDS + 1)] == [BATCH] * ROUNDS
        last = campaign.store.queue(round=ROUNDS + 1)
        assert {e.state for e in last} == {QueueState.EXPORTED}
        assert all(e.material_id.startswith("GEN-") and "probability to improve" in e.reason for e in last)
        queued = list(campaign.store.materials([e.material_id for e in last]))
        assert all(m.properties[SUBSTITUTION] >= -2.5 for m in queued)
        assert max(Counter(m.chemical_system for m in queued).values()) <= 2
    rows = [line.split() for line in done.stdout.splitlines()[3 : 3 + ROUNDS]]
    found, by_chance = (float(rows[-1][column].rstrip("%")) for column in (1, 2))
    assert found > 1.5 * by_chance, "the rehearsal finds the extremes no sooner than random choice"


def test_demo_leaves_another_campaign_alone(tmp_path: Path) -> None:
    with Campaign.create(tmp_path / "mine"):
        pass
    before = (tmp_path / "mine" / "campaign.toml").read_bytes()
    assert NAME.encode() not in before
    with pytest.raises(CampaignError, match="mine"):
        run_demo(tmp_path / "mine", print)
    assert (tmp_path / "mine" / "campaign.toml").read_bytes() == before
