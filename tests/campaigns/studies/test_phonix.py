"""The study on published splits: every method on every test set of real crystals, nothing made twice."""

from __future__ import annotations

import gzip
import json
from itertools import islice

import numpy as np
import pytest

from campaigns.exceptions import CampaignError
from campaigns.studies import phonix
from tests.campaigns.helpers import done, refused

SMALL = phonix.Settings(seeds=2, trees=10)


@pytest.fixture
def data(shared, tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    with gzip.open(shared("data/ltc_phonix.jsonl.gz"), "rt") as lines:
        (folder / "ltc_phonix.jsonl").write_text("".join(islice(lines, 70)))
    return folder


def test_every_method_on_every_test_set(data, tmp_path):
    said: list[str] = []
    first = phonix.run(data, tmp_path / "w", said.append, SMALL)
    made = {(row["test_set"], row["method"], row["draw"]) for row in first.rows}
    draws = {method: 2 if method in phonix.SEEDED else 1 for method in phonix.METHODS}
    assert made == {(s, m, seed) for s in phonix.SETS for m, count in draws.items() for seed in range(count)}
    assert all(np.isfinite(row["mae_ln"]) for row in first.rows)
    without = {row["method"] for row in first.rows if row["coverage_90"] is None}
    assert without == {"lowest training value"}

    records = [json.loads(line) for line in (data / "ltc_phonix.jsonl").read_text().splitlines()]
    low = {r["id"]: r["properties"]["kappa_300K_W_mK"] for r in records}
    tested = [k for r in records if "low" in r["properties"]["published_test_sets"] for k in [low[r["id"]]]]
    (lowest,) = [r for r in first.rows if (r["test_set"], r["method"]) == ("low", "lowest training value")]
    assert lowest["test"] == len(tested)
    known = min(k for k in low.values() if k not in tested)
    assert lowest["mae_ln"] == pytest.approx(np.abs(np.log(tested) - np.log(known)).mean(), abs=1e-5)
    assert "| published: eqV2 with matching-based extrapolation | 0.997 |" in first.tables
    assert "| published: Orb embedding + TabPFN | 0.378 | 0.758 |" in first.tables

    said.clear()
    again = phonix.run(data, tmp_path / "w", said.append, SMALL)
    assert again.rows == first.rows
    assert not any(line.startswith("phonix-") for line in said)


def test_the_command(data, tmp_path, monkeypatch):
    monkeypatch.setattr(phonix, "QUICK", phonix.Settings(seeds=1, trees=5, max_rows=60, sets=("random",)))
    out = tmp_path / "out"
    made = done("study", "phonix", "--data", data, "--out", out, "--quick", "--format", "json", "--quiet")
    assert [row["method"] for row in made.json] == list(phonix.METHODS)
    assert {row["test_set"] for row in made.json} == {"random"}
    assert json.loads((out / "phonix.json").read_text())["facts"]["published_sizes"]["random"] == [5563, 1403]
    assert "ltc_phonix" in refused("study", "phonix", "--data", tmp_path, "--out", out)


def test_a_file_without_published_sets_is_refused(data, tmp_path):
    path = data / "ltc_phonix.jsonl"
    path.write_text(path.read_text().replace("published_test_sets", "sets"))
    with pytest.raises(CampaignError, match="puts 0 of 70 crystals into the published test set 'random'"):
        phonix.run(data, tmp_path / "w", lambda _: None, SMALL)
