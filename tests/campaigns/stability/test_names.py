"""Stability in words: unknown for generated crystals until they have an energy above the hull."""

from __future__ import annotations

from pathlib import Path

import pytest

from campaigns.campaign import Campaign
from campaigns.report.evidence import Evidence
from campaigns.report.tables import queue_tables
from campaigns.stability.names import stability_of
from db.states import QueueState
from engine.materials.candidates import generate_candidates
from tests.campaigns.helpers import configure, done, queue, write_lines
from tests.campaigns.stability.conftest import row
from tests.engine.physics.salts import rocksalt


@pytest.fixture
def generated(tmp_path: Path) -> Path:
    """Give a campaign of ten generated crystals, and a salt from elsewhere with an energy above the hull."""
    rows = [row(c.id, c.crystal, **c.properties) for c in generate_candidates()[:10]]
    rows.append(row("NaCl", rocksalt("NaCl"), energy_above_hull_eV=0.0))
    directory = tmp_path / "c"
    done("init", directory, "--cold")
    done("ingest", directory, write_lines(tmp_path / "pool.jsonl", rows))
    configure(directory, {"campaign": {"batch": 11}})
    return directory


def test_only_generated_crystals_without_an_energy_are_unknown(generated: Path) -> None:
    with Campaign.open(generated) as campaign:
        ids = [key.material_id for key in campaign.store.material_index()]
        campaign.store.set_properties({ids[0]: {"energy_above_hull_eV": 0.0123}})
        found = stability_of(campaign.store, ids)
        assert found[ids[0]] == "0.012 eV/atom above hull"
        assert {found[id_] for id_ in ids[1:10]} == {"unknown"}
        assert found["NaCl"] == "0.000 eV/atom above hull"
        assert stability_of(campaign.store, ["NaCl"]).keys() == {"NaCl"}


def test_the_queue_and_the_report_say_so_until_it_is_known(generated: Path) -> None:
    done("run", generated, "--rounds", 1, "--quiet")
    rows = {r["id"]: r for r in queue(generated)}
    salt = rows.pop("NaCl")
    assert len(rows) == 10
    assert {r["stability"] for r in rows.values()} == {"unknown"}
    assert all(r["reason"].endswith("; stability unknown") for r in rows.values())
    assert "stability" not in salt["reason"]
    assert "stability" in done("queue", "list", generated).out
    first = next(iter(rows))
    with Campaign.open(generated) as campaign:
        (table,) = queue_tables(Evidence(campaign))
        assert table["unknown"] == 10
        campaign.store.set_properties({first: {"energy_above_hull_eV": 0.05}})
        assert set(campaign.queue([QueueState.PROPOSED])["stability"]) == {
            "unknown",
            "0.050 eV/atom above hull",
            "0.000 eV/atom above hull",
        }
        (table,) = queue_tables(Evidence(campaign))
        assert table["unknown"] == 9
        (words,) = (r["reason"] for r in table["rows"] if r["id"] == first)
        assert words.endswith("; 0.050 eV/atom above hull")
    assert "Of 9 generated crystals the stability is unknown" in _report(generated)


def _report(directory: Path) -> str:
    done("report", directory)
    return (directory / "report.html").read_text()
