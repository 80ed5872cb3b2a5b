"""Models outside a campaign: train, predict, pre-train."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaigns.standalone.predictions import PREDICTION_COLUMNS
from tests.campaigns.helpers import FIELD, done, kappascout, queue, refused, write_lines


@pytest.fixture(scope="module")
def model(pool_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a small model on the crystals of the pool."""
    out = tmp_path_factory.mktemp("model") / "m"
    done("train", pool_file, "--property", FIELD, "--members", 2, "--out", out)
    return out


def predictions(path: Path) -> list[dict[str, str]]:
    """Read predictions as they stand in a CSV file."""
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


def test_train_and_predict_real_first_principles_data(shared: Callable[[str], Path], tmp_path: Path) -> None:
    """The columns are exactly those promised; both files say the same; the model has learned something."""
    from pyarrow import parquet

    data = shared("data/ltc_l96.jsonl.gz")
    trained = done("train", data, "--property", "kappa_300K_W_mK", "--out", tmp_path / "m", "--format", "json")
    assert [row["predictor"] for row in trained.json] == ["model", "constant", "extra_trees"]
    scores = {row["predictor"]: row for row in trained.json}
    with gzip.open(data, "rt") as handle:
        records = [json.loads(line) for line in handle]
    assert scores["model"]["rows"] == len(records) == 95
    assert scores["model"]["mae"] < scores["constant"]["mae"]
    assert 0.75 < scores["model"]["coverage_90"] <= 1

    for suffix in ("csv", "parquet"):
        told = done("predict", tmp_path / "m", data, "--out", tmp_path / f"p.{suffix}")
        assert f"95 predictions written to {tmp_path / f'p.{suffix}'}, 0 records refused" in told.err
    rows = predictions(tmp_path / "p.csv")
    table = parquet.read_table(tmp_path / "p.parquet")
    assert tuple(table.column_names) == tuple(rows[0]) == PREDICTION_COLUMNS
    assert [row["id"] for row in rows] == table.column("id").to_pylist() == [r["id"] for r in records]
    assert [row["formula"] for row in rows] == [r["formula"] for r in records]
    for name in PREDICTION_COLUMNS[2:]:
        np.testing.assert_allclose([float(row[name]) for row in rows], table.column(name).to_numpy())
    low, mean, high, log10, std = (
        table.column(name).to_numpy() for name in ("lower", "mean", "upper", "log10_mean", "log10_std")
    )
    np.testing.assert_allclose(mean, 10**log10)
    np.testing.assert_allclose(low, 10 ** (log10 - 1.6448536269514722 * std))
    np.testing.assert_allclose(high, 10 ** (log10 + 1.6448536269514722 * std))
    truth = np.log10([r["properties"]["kappa_300K_W_mK"] for r in records])
    assert np.corrcoef(truth, log10)[0, 1] > 0.9


def test_a_campaign_predicts_as_its_queue(replay: Path, pool_file: Path, tmp_path: Path) -> None:
    """By its directory or the folder of the model in it, with the same intervals."""
    assert "no round of the campaign" in refused("predict", replay, pool_file)
    done("run", replay, "--rounds", 1)
    models = list((replay / "artifacts" / "models").glob("round-*"))
    for number, given in enumerate((replay, *models)):
        told = done("predict", given, pool_file, "--out", tmp_path / f"{number}.csv").err
        assert "as in the queue of round 1" in told
        found = {row["id"]: row for row in predictions(tmp_path / f"{number}.csv")}
        for entry in queue(replay):
            for name in ("mean", "lower", "upper"):
                assert float(found[entry["id"]][name]) == pytest.approx(entry[name], rel=1e-3)


def test_a_linear_property(records: list[dict[str, Any]], tmp_path: Path) -> None:
    """It may be negative, and has no logarithm in its predictions."""
    rows = [r | {"properties": {"charge": float(np.log10(r["properties"][FIELD])) - 1}} for r in records]
    file = write_lines(tmp_path / "x.jsonl", rows)
    done("train", file, "--property", "charge", "--head", "mlp", "--members", 2, "--out", tmp_path / "m")
    done("predict", tmp_path / "m", file, "--out", tmp_path / "p.csv")
    row = predictions(tmp_path / "p.csv")[0]
    assert float(row["lower"]) < float(row["mean"]) < float(row["upper"])
    assert (row["log10_mean"], row["log10_std"]) == ("", "")
    done("predict", tmp_path / "m", file, "--out", tmp_path / "p.parquet")
    told = done("train", file, "--property", "charge", "--scale", "log10", "--members", 2, "--out", tmp_path / "l").err
    assert "whose charge is not above zero and has no logarithm" in told


@pytest.mark.parametrize("kind", ["formula", "tail"])
def test_a_split_is_tested_before_all_rows_are_trained_on(
    kind: str, model: Path, pool_file: Path, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    """The figures are those of a model that has seen the training rows alone; the model written has seen all."""
    out = tmp_path / "m"
    command = ("train", pool_file, "--property", FIELD, "--members", 2, "--out", out, "--split", kind)
    rows = done(*command, "--format", "json").json
    tested = [row for row in rows if row["evaluation"] == kind]
    assert [row["predictor"] for row in tested] == ["model", "constant", "lowest_training_value", "extra_trees"]
    validated = [row["predictor"] for row in rows if row["evaluation"] == "cross-validated"]
    assert validated == ["model", "constant", "extra_trees"]
    stored = json.loads((out / "ensemble.json").read_text())["metrics"]["split"]
    assert stored["training"] + stored["test"] == len(records)
    assert {row["rows"] for row in tested} == {stored["test"]}
    assert stored["predictors"]["model"]["mae"] == tested[0]["mae"]
    assert tested[0]["mae_ln"] == pytest.approx(tested[0]["mae"] * np.log(10))
    assert 0 <= tested[0]["coverage_90"] <= 1
    if kind == "tail":
        values = np.array([r["properties"][FIELD] for r in records])
        below = values <= stored["threshold"]
        assert below.sum() == stored["test"] >= 12
        error = np.abs(np.log10(values[below]) - np.log10(values[~below].min())).mean()
        assert tested[2]["mae"] == pytest.approx(error)
    for member in ("member-0.safetensors", "member-1.safetensors"):
        assert (out / member).read_bytes() == (model / member).read_bytes()


def test_a_threshold_of_a_tail(pool_file: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    values = np.sort([r["properties"][FIELD] for r in records])
    train = ("train", pool_file, "--property", FIELD, "--members", 2, "--split", "tail", "--out", tmp_path / "m")
    told = done(*train, "--tail-below", values[49]).out
    assert "held-out" in told
    assert "highest_training_value" in told
    assert "cross-validated" in told
    metrics = json.loads((tmp_path / "m" / "ensemble.json").read_text())["metrics"]["split"]
    assert metrics["test"] == np.count_nonzero(values >= values[49])
    message = refused(*train[:-1], tmp_path / "n", "--tail-above", 2 * values[-1])
    assert f"0 of {len(values)} values" in message
    assert "60 rows of 1 space groups" in refused(*train[:-3], "space_group", "--out", tmp_path / "n")
    few = refused(*train[:-1], tmp_path / "n", "--tail-above", values[-5])
    assert "4 labels" in few
    assert not (tmp_path / "n").exists()
    for wrong in (
        ("--tail-above", 1, "--tail-below", 2),
        ("--split", "formula", "--tail-above", 1),
        ("--split", "colour"),
    ):
        assert kappascout(*train, *wrong).code == 2


def test_what_cannot_be_trained_says_why(
    model: Path, pool_file: Path, records: list[dict[str, Any]], tmp_path: Path
) -> None:
    train = ("train", pool_file, "--members", 2)
    message = refused(*train, "--property", "kapa", "--out", tmp_path / "m")
    assert "no record has a usable 'kapa' (60 without kapa; there are: kappa_300K); check --property" in message
    (tmp_path / "labels.csv").write_text("id,property,value\nx,kappa_300K,2\n")
    message = refused("train", tmp_path / "labels.csv", "--property", "kappa_300K", "--out", tmp_path / "m")
    assert "no crystals in" in message
    assert "holds a trained model" in refused(*train, "--property", FIELD, "--out", model)
    few = write_lines(tmp_path / "few.jsonl", records[:5])
    assert "5 labels" in refused("train", few, "--property", FIELD, "--out", tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_rows_that_cannot_train_are_counted(records: list[dict[str, Any]], tmp_path: Path) -> None:
    rows = [
        *records[:20],
        dict(records[0], id="copy"),
        dict(records[20], properties={FIELD: -1.0}),
        dict(records[21], properties={FIELD: float("nan")}),
        dict(records[22], properties={}),
        dict(records[23], id="radon", species=["Rn", *records[23]["species"][1:]]),
        {"id": "broken"},
    ]
    told = done(
        "train", write_lines(tmp_path / "x.jsonl", rows), "--property", FIELD, "--members", 2, "--out", tmp_path / "m"
    ).err
    assert "20 labelled crystals embedded" in told
    for words in (
        "1 copies of another crystal",
        f"1 whose {FIELD} is not above zero",
        f"1 whose {FIELD} is not finite",
        f"1 without {FIELD}",
        "1 refused (An element does not exist, or the backbone was never trained on it.)",
        "1 refused (Something that a crystal needs is not in the record.)",
    ):
        assert words in told


def test_records_that_cannot_be_predicted_are_named(model: Path, records: list[dict[str, Any]], tmp_path: Path) -> None:
    radon = dict(records[0], id="radon", species=["Rn", *records[0]["species"][1:]])
    mixed = write_lines(tmp_path / "mixed.jsonl", [records[0], radon])
    told = done("predict", model, mixed, "--out", tmp_path / "p.csv")
    assert "radon: the backbone does not know Rn" in told.err
    assert "1 predictions written" in told.err
    only = write_lines(tmp_path / "only.jsonl", [radon])
    message = refused("predict", model, only, "--out", tmp_path / "none.csv")
    assert "no crystal could be predicted" in message
    assert not (tmp_path / "none.csv").exists()


def test_a_folder_without_crystals_cannot_be_predicted(model: Path, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    message = refused("predict", model, tmp_path / "nothing", "--out", tmp_path / "p.csv")
    assert str(tmp_path / "nothing") in message
    assert not (tmp_path / "p.csv").exists()


def test_predictions_that_cannot_be_made_say_why(model: Path, pool_file: Path, tmp_path: Path) -> None:
    assert "ends in neither .csv nor .parquet" in refused("predict", model, pool_file, "--out", tmp_path / "p.txt")
    assert "holds no ensemble.json" in refused("predict", tmp_path, pool_file, "--out", tmp_path / "p.csv")
    assert "does not exist" in refused("predict", model, tmp_path / "x.cif", "--out", tmp_path / "p.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_changed_model_is_refused(model: Path, pool_file: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(model, tmp_path / "m"))
    member = copy / "member-0.safetensors"
    member.write_bytes(member.read_bytes()[:-1] + b"x")
    assert "SHA-256" in refused("predict", copy, pool_file, "--out", tmp_path / "p.csv")


def test_the_same_seed_trains_the_same_model(model: Path, pool_file: Path, tmp_path: Path) -> None:
    done("train", pool_file, "--property", FIELD, "--members", 2, "--out", tmp_path / "m")
    for member in ("member-0.safetensors", "member-1.safetensors"):
        assert (tmp_path / "m" / member).read_bytes() == (model / member).read_bytes()


def test_pretrain_and_start_from_it(records: list[dict[str, Any]], pool_file: Path, tmp_path: Path) -> None:
    """A backbone of our own: it trains models, and a backtest of what it has seen is refused."""
    recipe = tmp_path / "tiny.json"
    recipe.write_text(
        json.dumps({"tasks": [{"name": FIELD, "scale": "log10"}], "schedule": {"epochs": 1}, "held_out_fraction": 0.2})
    )
    pretrain = ("pretrain", recipe, pool_file, "--from", "megnet-multiproperty")
    made = done(*pretrain, "--out", tmp_path / "b", "--format", "json")
    assert [row["property"] for row in made.json] == [FIELD]
    assert "epoch 1 of 1" in made.err
    assert "holds a backbone already" in refused(*pretrain, "--out", tmp_path / "b")
    assert "no recipe 'none'" in refused("pretrain", "none", pool_file, "--from", "x", "--out", tmp_path / "c")

    train = ("train", pool_file, "--property", FIELD, "--members", 2)
    done(*train, "--from", tmp_path / "b", "--out", tmp_path / "m")
    protocol = ("--property", FIELD, "--goal", "min", "--initial", 10, "--batch", 2, "--rounds", 1, "--workers", 1)
    message = refused("backtest", pool_file, *protocol, "--from", tmp_path / "b")
    assert f"was trained on {FIELD} of" in message
    assert "so the backtest would know the answers" in message
