"""A potential of another environment as a backbone, through the command line: in a campaign, in a model, in predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaigns.campaign import Campaign
from campaigns.round.opening import changed_settings
from tests.campaigns.helpers import FIELD, configure, done, kappascout, refused, write_lines
from tests.campaigns.standalone.test_models import predictions
from tests.engine.physics.described import HOME, SHELLS
from tests.engine.physics.environments import borrowing_environment

NAMES = ["megnet-multiproperty", SHELLS]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the Python of an environment that has our packages."""
    return borrowing_environment(tmp_path_factory.mktemp("other"))


def test_a_round_with_it_and_predictions_by_its_model(
    replay: Path, records: list[dict[str, Any]], python: str, tmp_path: Path
) -> None:
    configure(replay, {"model": {"backbone": NAMES, "potential_python": python}, "campaign": {"budget": 4}})
    ran = done("run", replay, "--rounds", 1, "--format", "json")
    assert ran.json[0]["state"] == "judged"
    kept = done("models", "verify", replay, "--format", "json").json
    assert {row["state"] for row in kept} == {"intact"}
    assert any(row["checkpoint"].endswith("potential.json") for row in kept)
    with Campaign.open(replay) as campaign:
        stages = {r.stage["backbone"]: r.stage for r in campaign.store.models() if r.stage.get("kind") == "start"}
        assert stages[SHELLS]["training_data"] == "unknown"
        record = campaign.store.rounds()[-1]
        elsewhere = campaign.configuration.model_copy(
            update={"model": campaign.configuration.model.model_copy(update={"potential_python": "/other/python"})}
        )
        assert changed_settings(elsewhere, record) == []
    crystals = write_lines(tmp_path / "crystals.jsonl", records[:6])
    done("predict", replay, crystals, "--out", tmp_path / "there.csv")
    done("predict", replay, crystals, "--out", tmp_path / "again.csv", "--potential-python", python)
    assert predictions(tmp_path / "there.csv") == predictions(tmp_path / "again.csv")
    assert len(predictions(tmp_path / "there.csv")) == 6

    (home,) = [p.parent for p in replay.glob("artifacts/backbones/*/potential.json")]
    card = json.loads((home / "card.json").read_text())
    assert card["python"] == python
    (home / "card.json").write_text(json.dumps(card | {"python": "/nowhere/bin/python"}))
    message = refused("predict", replay, crystals, "--out", tmp_path / "no.csv")
    assert "/nowhere/bin/python" in message
    assert not (tmp_path / "no.csv").exists()
    done("predict", replay, crystals, "--out", tmp_path / "moved.csv", "--potential-python", python)
    (home / "potential.json").write_text((home / "potential.json").read_text() + " ")
    verified = kappascout("models", "verify", replay)
    assert verified.code == 1
    assert "changed" in verified.out


def test_train_with_it(pool_file: Path, python: str, tmp_path: Path) -> None:
    common = ("train", pool_file, "--property", FIELD, "--members", 2, "--format", "json")
    trained = done(*common, "--from", SHELLS, "--potential-python", python, "--out", tmp_path / "m")
    here = done(*common, "--from", SHELLS, "--out", tmp_path / "here")
    for mine, theirs in zip(here.json, trained.json, strict=True):
        assert mine["mae"] == pytest.approx(theirs["mae"], rel=1e-3)
    done("predict", tmp_path / "m", pool_file, "--out", tmp_path / "p.csv")
    answers = [json.loads(line)["properties"][FIELD] for line in pool_file.read_text().splitlines()]
    found = [float(row["mean"]) for row in predictions(tmp_path / "p.csv")]
    assert np.corrcoef(np.log(found), np.log(answers))[0, 1] > 0.8


def test_what_cannot_be_used_is_refused_before_anything_is_written(pool_file: Path, tmp_path: Path) -> None:
    def message(*more: object) -> str:
        told = refused("train", pool_file, "--property", FIELD, "--members", 2, "--out", tmp_path / "m", *more)
        assert not (tmp_path / "m").exists()
        return told

    assert "leave it out" in message("--from", "megnet-multiproperty", "--potential-python", "python")
    assert "sevennet" in message("--from", "deepmd:model.pb")
    assert "there is no program /no/python" in message("--from", SHELLS, "--potential-python", "/no/python")
    assert "embeddings only" in message("--from", SHELLS, "--strategy", "full", "--head", "network")
    lines = [json.loads(line) for line in pool_file.read_text().splitlines()]
    symbol = next(symbol for line in lines for symbol in line["species"] if symbol not in ("Mg", "O"))
    spec = f"{HOME}:Failing?" + json.dumps({"symbol": symbol})
    told = message("--from", spec, "--strategy", "none")
    assert "too many electrons" in told
    assert f"{symbol}" in told.partition("atoms)")[0]  # the formula


def test_a_python_is_for_a_potential(dft: Path) -> None:
    configure(dft, {"model": {"potential_python": "p"}})
    assert "leave it out" in refused("run", dft)
