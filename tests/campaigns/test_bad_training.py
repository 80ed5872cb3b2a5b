"""What can go wrong in training as its user meets it: one clear message each, nothing half-made, and a way to go on."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from campaigns.output import Progress
from engine.exceptions import DivergedError
from engine.learning.backbones.backbone import load_backbone
from engine.learning.networks import effort, finetune
from engine.learning.networks.graph_data import GraphData
from tests.campaigns.helpers import FIELD, configure, done, kappascout, queue, refused, write_lines
from tests.engine.learning.bodies import small_backbone

BODY = {"dim_edge_embedding": 12, "hidden_layer_sizes_input": [12, 8], "hidden_layer_sizes_conv": [12, 8]}
STAGE: dict[str, Any] = {
    "tasks": [{"name": FIELD, "scale": "log10"}],
    "start": "scratch:megnet",
    "body": BODY,
    "schedule": {"epochs": 2, "batch_size": 16},
    "min_labels": 8,
    "held_out_fraction": 0.2,
    "trunk_size": 8,
}
GOES_ON = {**STAGE, "start": "previous"}

Make = Callable[..., Path]


@pytest.fixture
def recipe(tmp_path: Path) -> Make:
    """Write a recipe of these stages."""

    def make(*stages: Any, **beside: Any) -> Path:
        path = tmp_path / "own.json"
        path.write_text(json.dumps({"stages": list(stages), **beside}))
        return path

    return make


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Give a backbone without a trunk that trains in no time."""
    return small_backbone("MEGNet").save(tmp_path / "small")


def changed(records: list[dict[str, Any]], **properties: Callable[[int], Any] | Any) -> list[dict[str, Any]]:
    """Give the records these properties, by number where they are functions."""
    return [
        {**r, "properties": {k: v(i) if callable(v) else v for k, v in properties.items()}}
        for i, r in enumerate(records)
    ]


# -- recipes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ({"stratgy": "full"}, "stage 2 (b): unknown key 'stratgy'; did you mean 'strategy'?"),
        ({"epochs": 3}, "unknown key 'epochs'; it belongs into schedule"),
        ({"schedule": {"epoch": 3}}, "unknown key 'epoch' in schedule; did you mean 'epochs'?"),
        ({"tasks": [{"name": FIELD, "unit": "W"}]}, "unknown key 'unit' in tasks; known: name, scale"),
        ({"tasks": [{"name": FIELD, "scale": "log2"}]}, "scale in tasks is \"log2\": input should be 'log10' or 'lin"),
        ({"tasks": FIELD}, f'tasks is "{FIELD}": input should be a valid array'),
        ({"schedule": {"epochs": 3.5}}, "epochs in schedule is 3.5: input should be a valid integer"),
        ({"schedule": {"epochs": 0}}, "stage 2 (b): epochs of a schedule must be at least 1, got 0"),
        ({"seed": -1}, "seed of stage b must be at least 0, got -1"),
        ({"trunk_size": 0}, "trunk_size of stage b must be at least 1, got 0"),
        ({"held_out_fraction": 1.5}, "held_out_fraction of stage b must be in [0, 1), got 1.5"),
        ({"name": "a"}, "stages of recipe own share a name (a, a, c)"),
        ({"name": "../b"}, "stage name '../b' holds more than letters"),
        ({"start": "c"}, "stage b starts from stage c, which does not come before it"),
        ({"start": "b"}, "stage b starts from stage b, which does not come before it"),
    ],
)
def test_recipes_that_cannot_be_followed(recipe: Make, pool_file: Path, tmp_path: Path, stage: Any, words: str) -> None:
    own = recipe({**STAGE, "name": "a"}, {**GOES_ON, "name": "b", **stage}, {**GOES_ON, "name": "c"})
    message = refused("pretrain", own, pool_file, "--out", tmp_path / "b")
    assert f"recipe {own} cannot be read: " in message
    assert words in message
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x80\xff", "codec can't decode"),
        (b"{", "Expecting property name"),
        (b"[]", "it is no object with stages"),
        (b'{"stages": {}}', "stages = {} is no list"),
        (
            b'{"stages": [], "descripton": "x"}',
            "unknown key 'descripton' beside the stages; did you mean 'description'?",
        ),
    ],
)
def test_files_that_are_no_recipe(pool_file: Path, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "own.json").write_bytes(content)
    assert words in refused("pretrain", tmp_path / "own.json", pool_file, "--out", tmp_path / "b")


def test_a_stage_starts_from_an_earlier_one(recipe: Make, pool_file: Path, tmp_path: Path) -> None:
    """Not only from the last; without that one it is refused."""
    own = recipe({**STAGE, "name": "a"}, {**GOES_ON, "name": "b"}, {**GOES_ON, "name": "c", "start": "a"})
    told = done("pretrain", own, pool_file, "--out", tmp_path / "b").err
    assert "stage c, from own-a: " in told
    lineage = json.loads((tmp_path / "b" / "card.json").read_text())["lineage"]
    assert [stage["stage"] for stage in lineage] == ["a", "c"]
    message = refused("pretrain", own, pool_file, "--out", tmp_path / "x", "--skip", "a", "--from", "scratch:megnet")
    assert "stage c starts from stage a, which is left out" in message


def test_crystals_and_starts_that_are_not_there(recipe: Make, pool_file: Path, small: Path, tmp_path: Path) -> None:
    """All of it is said before the first stage is trained."""
    out = ("--out", tmp_path / "b")
    own = recipe({**STAGE, "name": "a"}, {**GOES_ON, "name": "b", "start": "./nowhere"})
    assert "was given no crystals; give FILE..., or --data ROLE=FILE for data" in refused("pretrain", own, *out)
    assert "none.jsonl does not exist" in refused("pretrain", own, tmp_path / "none.jsonl", *out)
    assert "MatGL model" in refused("pretrain", own, pool_file, *out)
    misspelt = ("--from", "megnet-multipropert")
    assert "did you mean 'megnet-multiproperty'?" in refused("pretrain", recipe(STAGE), pool_file, *misspelt, *out)
    assert not (tmp_path / "b").exists()
    for command in (("pretrain", own, pool_file), ("study", "paraisite", "--data", tmp_path)):
        outcome = kappascout(*command, *out, "--from", small, "--from", "scratch:megnet")
        assert outcome.code == 2
        assert "--from is given 2 times" in outcome.err.replace("\n", " ")


# -- weights -----------------------------------------------------------------------------------------------------------


def test_weights_that_do_not_match(recipe: Make, pool_file: Path, small: Path, tmp_path: Path) -> None:
    """Which tensors, and how many did; before anything is embedded."""
    options = ("--property", FIELD, "--members", 2, "--out", tmp_path / "m")
    message = refused("train", pool_file, *options, "--from", small, "--strategy", "last")
    assert "tensors needed from small-MEGNet for strategy last match; not statistics_mean (missing)" in message
    assert "embedded" not in message
    message = refused("train", pool_file, *options, "--from", small, "--strategy", "blocks:9")
    assert "blocks:9 asks for 9 blocks, MEGNet of this backbone has 3" in message
    own = recipe({**STAGE, "start": str(small), "keep": "trunk"})
    assert "86 of the 92 tensors needed from small-MEGNet" in refused(
        "pretrain", own, pool_file, "--out", tmp_path / "b"
    )
    (small / "weights.safetensors").write_bytes((small / "weights.safetensors").read_bytes()[:-4])
    for command in (("train", pool_file, *options), ("pretrain", own, pool_file, "--out", tmp_path / "b")):
        assert "the file was changed or cut short" in refused(*command, "--from", small)
    assert not (tmp_path / "m").exists()


def test_a_campaign_begins_no_round_that_its_model_cannot_do(dft: Path, pool_file: Path) -> None:
    """A round keeps its settings, so that one that has begun could never be mended."""
    small_backbone("MEGNet").save(dft / "small")
    configure(dft, {"model": {"backbone": "small", "networks": "last"}})
    assert "tensors needed from small-MEGNet for strategy last match" in refused("run", dft)
    assert done("rounds", dft, "--format", "json").json == []
    configure(dft, {"model": {"networks": "none", "lower_fidelity": "agl"}})
    assert "kappa_300K has 0 labels of that fidelity where 8 are needed" in refused("run", dft)
    done("train", pool_file, "--property", FIELD, "--members", 2, "--out", dft / "cheap")
    configure(dft, {"model": {"lower_fidelity": "cheap"}})
    message = refused("run", dft)
    assert "'cheap' stands on backbone megnet-multiproperty + megnet-taught, the campaign on small-MEGNet" in message
    assert 'set backbone = ["megnet-multiproperty", "megnet-taught"], or train it again with --from small' in message
    assert done("rounds", dft, "--format", "json").json == []
    configure(dft, {"model": {"lower_fidelity": None}})
    done("run", dft, "--rounds", 1)
    assert len(queue(dft)) == 4


# -- labels ------------------------------------------------------------------------------------------------------------


def test_labels_that_cannot_be_learned(recipe: Make, records: list[dict[str, Any]], tmp_path: Path) -> None:
    def both(rows: list[dict[str, Any]]) -> tuple[str, str]:
        file = write_lines(tmp_path / "rows.jsonl", rows)
        plain = recipe({**STAGE, "tasks": [{"name": FIELD}]})
        trained = refused("train", file, "--property", FIELD, "--scale", "linear", "--out", tmp_path / "m")
        return trained, refused("pretrain", plain, file, "--out", tmp_path / "b")

    trained, made = both(changed(records, **{FIELD: 3.0}))
    assert f"all 60 labels of {FIELD} are equal (3); check the column" in trained
    assert f"all 60 labels of '{FIELD}' are equal (3); leave this property out" in made
    trained, made = both(changed(records, other="x"))
    assert "no record has a usable 'kappa_300K' (60 without kappa_300K; there are: other)" in trained
    assert f"property '{FIELD}' has 0 usable labels, 8 are needed" in made
    trained, made = both(records[:6])
    assert "has 6 labels, 5 members need at least 8" in trained
    assert "has 6 usable labels, 8 are needed" in made
    trained, made = both(changed(records, **{FIELD: lambda i: 1e200 * (i - 7)}))
    assert "59 whose kappa_300K is beyond 1e+30 and cannot be learned" in trained
    assert "is 5.2e+201" in made
    assert not (tmp_path / "m").exists()


def test_two_fidelities_are_not_mixed(recipe: Make, records: list[dict[str, Any]], tmp_path: Path) -> None:
    """Named by the command, by the records, or only to be guessed from copies that disagree."""
    values = [r["properties"][FIELD] for r in records]
    rows = changed(records[:20], **{FIELD: lambda i: values[i] / 3}, fidelity="agl")
    file = write_lines(
        tmp_path / "rows.jsonl", [*rows, *changed(records, **{FIELD: lambda i: values[i]}, fidelity="dft")]
    )
    own, out = recipe(STAGE), ("--out", tmp_path / "b")
    message = refused("train", file, "--property", FIELD, "--out", tmp_path / "m")
    assert f"labels of {FIELD} are of agl (20), dft (60), which are not the same quantity" in message
    assert "of fidelities agl, dft" in refused("pretrain", own, file, *out)
    named = ("--data", f"data={file}:{FIELD}@agl", "--data", f"data={tmp_path / 'pool.jsonl'}:{FIELD}")
    write_lines(tmp_path / "pool.jsonl", records)
    assert "of fidelities (not given), agl" in refused("pretrain", own, *named, *out)
    message = refused("pretrain", recipe({**STAGE, "fidelity": "exp"}), tmp_path / "pool.jsonl", "--data",
                      f"data={file}:{FIELD}@dft", *out)  # fmt: skip
    assert "of fidelities (not given), dft" in message

    unnamed = changed(records[:20], **{FIELD: lambda i: values[i] / 3})
    write_lines(file, [*unnamed, *records])
    told = done("train", file, "--property", FIELD, "--members", 2, "--out", tmp_path / "m").err
    assert "records left out: 20 copies of another crystal with another value" in told
    told = done("pretrain", own, file, *out).err
    assert "data: 20 copies give another value than the first, which counts (labels of two fidelities?)" in told


def test_answers_that_the_backbone_has_learned_before(recipe: Make, pool_file: Path, tmp_path: Path) -> None:
    """Errors on held-out rows are too good then, which nothing else would tell."""
    done("pretrain", recipe(STAGE), pool_file, "--out", tmp_path / "b")
    options = ("--property", FIELD, "--members", 2, "--quiet", "--out")
    told = done("train", pool_file, *options[:-2], "--out", tmp_path / "m", "--from", tmp_path / "b").err
    assert f"warning: backbone own has learned {FIELD} of 60 of these 60 crystals" in told
    mixed = ("--from", "megnet-multiproperty", "--from", tmp_path / "b")
    told = done("train", pool_file, *options[:-2], "--out", tmp_path / "n", *mixed).err
    assert f"warning: backbone megnet-multiproperty + own has learned {FIELD} of 60" in told

    # and a mixture predicts the same wherever its folder is
    done("predict", tmp_path / "n", pool_file, "--out", tmp_path / "here.csv")
    (tmp_path / "n").rename(tmp_path / "elsewhere")
    (tmp_path / "b").rename(tmp_path / "gone")
    done("predict", tmp_path / "elsewhere", pool_file, "--out", tmp_path / "there.csv")
    assert (tmp_path / "there.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()


# -- on the way --------------------------------------------------------------------------------------------------------


def test_a_loss_that_is_no_number(recipe: Make, pool_file: Path, tmp_path: Path) -> None:
    """It says where, the last good network is kept, and the same folder serves for the mended recipe."""
    fast = {"epochs": 3, "batch_size": 16, "learning_rate": 1e30, "clip_norm": 1e30}
    stages = [{**STAGE, "name": "a"}, {**GOES_ON, "name": "b", "schedule": fast}]
    message = refused("pretrain", recipe(*stages), pool_file, "--out", tmp_path / "b")
    assert "error: stage b: the loss became nan in epoch 1, batch " in message
    assert f"(of {FIELD}); lower the learning rate (now 1e+30) or look for extreme labels" in message
    kept = tmp_path / "b" / "stages" / "2-b" / "last-good"
    assert f"the network as it was before the first epoch is in {kept}" in message
    begun = load_backbone(tmp_path / "b" / "stages" / "1-a").network.state_dict()
    for name, tensor in load_backbone(kept).network.state_dict().items():
        assert torch.isfinite(tensor).all()
        assert not name.startswith("body.") or torch.equal(tensor, begun[name])
    stages[1]["schedule"] = STAGE["schedule"]
    assert "stage a is finished already" in done("pretrain", recipe(*stages), pool_file, "--out", tmp_path / "b").err


def test_a_round_whose_networks_diverge(dft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would diverge again however often it is run; it ends, and the next one has the settings of its time."""
    small_backbone("MEGNet").save(dft / "small")
    configure(dft, {"model": {"backbone": "small", "networks": "head", "epochs": 1, "members": 2}})

    def diverge(*_: Any, **__: Any) -> None:
        raise DivergedError("the loss became nan in epoch 1, batch 1 of 2 (of target); look for extreme labels")

    with monkeypatch.context() as patch:
        patch.setattr(finetune, "train_network", diverge)
        message = refused("run", dft, "--rounds", 1)
    assert "round 1 queues nothing: a network of seed " in message
    assert " on small-MEGNet (strategy head): the loss became nan in epoch 1, batch 1 of 2" in message
    assert queue(dft) == []
    done("run", dft, "--rounds", 1)
    assert {entry["round"] for entry in queue(dft)} == {2}


def test_memory_that_runs_out(recipe: Make, pool_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The batch is halved, it is said, and the outcome is the same but for rounding."""
    own = recipe(STAGE)
    whole = done("pretrain", own, pool_file, "--out", tmp_path / "whole", "--format", "json").json
    collate = GraphData.batch

    def short(self: GraphData, rows: Any, where: torch.device) -> Any:
        if len(rows) > 5:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory")
        return collate(self, rows, where)

    monkeypatch.setattr(GraphData, "batch", short)
    halved = done("pretrain", own, pool_file, "--out", tmp_path / "halved", "--format", "json")
    assert "computed in 4 parts, to the same sum" in halved.err
    assert halved.json[0]["mae"] == pytest.approx(whole[0]["mae"], rel=1e-3)

    def none(self: GraphData, rows: Any, where: torch.device) -> Any:
        raise MemoryError

    monkeypatch.setattr(GraphData, "batch", none)
    message = refused("pretrain", own, pool_file, "--out", tmp_path / "none")
    assert "memory ran out for a single crystal (no reason was given); leave the largest crystals out" in message


def test_killed_in_the_middle_of_a_stage(recipe: Make, pool_file: Path, tmp_path: Path) -> None:
    """The same command goes on, to the same bits; not from a checkpoint that was changed, nor with other settings."""
    stages = [{**STAGE, "name": "a"}, {**GOES_ON, "name": "b", "strategy": "gradual"}]
    own, out = recipe(*stages), tmp_path / "killed"
    done("pretrain", own, pool_file, "--out", tmp_path / "whole")
    _killed_at("stage b, epoch 1", "pretrain", own, pool_file, "--out", out)
    checkpoint = out / "stages" / "2-b" / "training.pt"
    content = checkpoint.read_bytes()

    checkpoint.write_bytes(content[:-1])
    assert "training.pt was changed or cut short" in refused("pretrain", own, pool_file, "--out", out)
    checkpoint.write_bytes(content)
    other = recipe(stages[0], {**stages[1], "seed": 1})
    assert "is the checkpoint of another training" in refused("pretrain", other, pool_file, "--out", out)

    told = done("pretrain", recipe(*stages), pool_file, "--out", out).err
    assert "stage a is finished already" in told
    assert f"stage b goes on from {checkpoint}" in told
    assert "stage b, epoch 2" in told
    assert "stage b, epoch 1 " not in told
    for name in ("weights.safetensors", "card.json"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not checkpoint.exists()


def test_hours_are_said_before_they_begin(dft: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_backbone("MEGNet").save(dft / "small")
    model = {"backbone": "small", "networks": "blocks:1", "epochs": 1, "members": 2}
    configure(dft, {"model": model})
    monkeypatch.setattr(effort, "WORTH_SAYING", 0.0)
    told = done("run", dft, "--rounds", 1).err
    assert "training 2 networks (blocks:1, 1 epochs, 14 crystals) takes about 0 minutes in 1 process" in told
    assert told.index("takes about") < told.index("network 1 of 2 trained")


def _killed_at(point: str, *arguments: object) -> None:
    """Run a command in a child that kills itself when it says ``point``."""
    child = os.fork()
    if child == 0:

        def say(_: object, text: str) -> None:
            if point in text:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Progress, "say", say)
                kappascout(*arguments)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert status == signal.SIGKILL
