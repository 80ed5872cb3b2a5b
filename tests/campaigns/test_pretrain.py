"""``kappascout pretrain``: recipes of several stages, data by role, starts from scratch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from campaigns.exceptions import CampaignError
from campaigns.standalone.models import _parse_data
from tests.campaigns.helpers import FIELD, done, refused, write_lines

BODY = {"dim_edge_embedding": 12, "hidden_layer_sizes_input": [12, 8], "hidden_layer_sizes_conv": [12, 8]}
COMMON = {"schedule": {"epochs": 1}, "min_labels": 8, "held_out_fraction": 0.2, "trunk_size": 8}
STAGES = [
    {"data": "many", "start": "scratch:megnet", "body": BODY, **COMMON},
    {"data": "few", "keep": "heads", "strategy": "blocks:1", "fidelity": "dft", **COMMON},
]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "two.json"
    path.write_text(json.dumps({"description": "of two", "stages": STAGES}))
    return path


@pytest.fixture
def files(records: list[dict[str, Any]], tmp_path: Path) -> dict[str, Path]:
    """One file a role; in that of many the property has another name."""
    cheap = [{**r, "properties": {"kappa_cheap": 2 * r["properties"][FIELD]}} for r in records]
    return {
        "many": write_lines(tmp_path / "many.jsonl", cheap),
        "few": write_lines(tmp_path / "few.jsonl", records[:40]),
    }


def test_a_chain_from_data_by_role(recipe: Path, files: dict[str, Path], tmp_path: Path) -> None:
    data = ("--data", f"many={files['many']}:kappa_cheap@agl", "--data", f"few={files['few']}:{FIELD}@dft")
    made = done("pretrain", recipe, *data, "--out", tmp_path / "b", "--format", "json")
    assert [(row["stage"], row["property"]) for row in made.json] == [("many", "kappa_cheap"), ("few", FIELD)]
    assert "stage many, from scratch-megnet:" in made.err
    assert "blocks:1 trains" in made.err
    card = json.loads((tmp_path / "b" / "card.json").read_text())
    assert [stage["stage"] for stage in card["lineage"]] == ["many", "few"]
    assert card["scaling"][FIELD]["scale"] == "log10"
    assert set(card["seen"]) == {"kappa_cheap", FIELD}
    stages = sorted(p.name for p in (tmp_path / "b" / "stages").iterdir())
    assert stages == ["1-many", "2-few"]

    # as if it had been interrupted before the last word
    (tmp_path / "b" / "card.json").unlink()
    again = done("pretrain", recipe, *data, "--out", tmp_path / "b", "--format", "json")
    assert again.json == made.json
    assert "stage few is finished already" in again.err


def test_other_bodies_from_scratch(recipe: Path, files: dict[str, Path], tmp_path: Path) -> None:
    data = ("--data", f"few={files['few']}:{FIELD}", "--skip", "many")
    assert "does not say what it starts from; give --from" in refused(
        "pretrain", recipe, *data, "--out", tmp_path / "x"
    )
    message = refused("pretrain", recipe, *data, "--from", "scratch:tensornet", "--out", tmp_path / "x")
    assert "needed from scratch-tensornet for strategy blocks:1 match; not" in message, "heads cannot go on"
    only = tmp_path / "one.json"
    only.write_text(json.dumps({"tasks": [{"name": FIELD, "scale": "log10"}], "body": {"units": 8}, **COMMON}))
    made = done("pretrain", only, files["few"], "--from", "scratch:tensornet", "--out", tmp_path / "b")
    assert "from scratch-tensornet" in made.err
    done("train", files["few"], "--property", FIELD, "--members", 2, "--from", tmp_path / "b", "--out", tmp_path / "m")


def test_requests_that_cannot_be_met(recipe: Path, files: dict[str, Path], tmp_path: Path) -> None:
    def message(*arguments: object) -> str:
        return refused("pretrain", *arguments, "--out", tmp_path / "b")

    many, few = f"many={files['many']}", f"few={files['few']}"
    assert "needs data for many, few; few is not given" in message(recipe, "--data", f"{many}:kappa_cheap")
    assert "stage many learns no property" in message(recipe, "--data", many, "--data", few)
    assert "has no data lots; it has many, few" in message(recipe, "--data", f"lots={files['many']}")
    assert "needs 2 sets of data; give each as --data ROLE=FILE, for many, few" in message(recipe, files["many"])
    assert "has no stage third; there are many, few" in message(recipe, "--skip", "third")
    agl = ("--data", f"{many}:kappa_cheap", "--data", f"{few}:{FIELD}@agl")
    assert "stage few learns labels of fidelity dft, those of 'kappa_300K' are agl" in message(recipe, *agl)
    mixed = [word for name in ("agl", "dft") for word in ("--data", f"{few}:{FIELD}@{name}")]
    mixed += ["--skip", "many", "--from", "scratch:megnet"]
    assert "of fidelities agl, dft" in message(recipe, *mixed)
    assert "'kappa' has 0 usable labels, 8 are needed" in message(
        recipe, "--data", f"{many}:kappa", "--data", f"{few}:{FIELD}"
    )
    assert not list((tmp_path / "b").glob("**/*.json")), "all of it before anything was trained"


def test_data_by_role_is_read(tmp_path: Path) -> None:
    odd = tmp_path / "a:b.jsonl"
    odd.touch()
    assert _parse_data(f"r={odd}") == ("r", odd, "", "")
    assert _parse_data(f"r={odd}:x@dft") == ("r", odd, "x", "dft")
    assert _parse_data("r=a.cif:x") == ("r", Path("a.cif"), "x", "")
    for text in ("", "r", "r=", "=x", "r=:x"):
        with pytest.raises(CampaignError, match=r"ROLE=FILE\[:FIELD\[@FIDELITY\]\]"):
            _parse_data(text)
