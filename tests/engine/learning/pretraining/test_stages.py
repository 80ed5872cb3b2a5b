"""Stages: several properties, few of them known of each crystal; chains; what cannot be learned."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.exceptions import BackboneError, DivergedError, TooFewLabelsError, TrainingError
from engine.learning.backbones.backbone import load_backbone
from engine.learning.features.statistics import crystal_statistics
from engine.learning.networks.graph_data import GraphData
from engine.learning.networks.schedule import Schedule
from engine.learning.pretraining.scratch import scratch_backbone
from engine.learning.pretraining.stage import Recipe, Stage
from engine.learning.pretraining.stages import run_stages
from engine.learning.pretraining.tasks import DataSet, PropertyTask, materials_hash, merge_copies
from engine.learning.pretraining.training import Scaling, StageData, begin_network, train_stage
from engine.materials.identity import identify
from engine.materials.reference import reference_crystals

STAGE = Stage(
    tasks=(PropertyTask("volume"), PropertyTask("mass", "log10")),
    schedule=Schedule(epochs=3, batch_size=16, learning_rate=2e-3),
    held_out_fraction=0.2,
    max_sites=8,
    trunk_size=16,
)


@pytest.fixture(scope="module")
def pool():
    """Crystals with their volume per atom, half of them with the density too."""
    found = []
    for i, (id_, crystal) in enumerate(reference_crystals().items()):
        properties = {"volume": crystal.volume / len(crystal)}
        if i % 2:
            properties["mass"] = crystal.density
        found.append(identify(id_, crystal, properties))
    return found


@pytest.fixture(scope="module")
def made(pool, backbone):
    return train_stage("small", STAGE, backbone, DataSet(pool))


def test_it_beats_the_mean_on_formulas_it_never_saw(made):
    held_out = made.card["held_out"]
    assert list(held_out) == ["volume", "mass"]
    for figures in held_out.values():
        assert figures["labels_held_out"] > 5
        assert figures["mae"] < figures["mae_of_the_mean"]
        assert figures["spearman"] > 0.3
    assert held_out["mass"]["labels_trained"] < held_out["volume"]["labels_trained"]
    losses = [epoch["validation_loss"] for epoch in made.card["history"]]
    assert losses[-1] < losses[0]


def test_scales_come_from_training_rows(made, pool):
    """Held-out formulas may be as odd as they like."""
    formulas = {m.formula for m in pool}
    held = {f for f in formulas if is_held_out(f)}
    assert 0.1 < len(held) / len(formulas) < 0.35
    training = np.array([m.properties["volume"] for m in pool if m.formula not in held])
    scaling = made.card["scaling"]["volume"]
    assert scaling["mean"] == pytest.approx(training.mean())
    assert scaling["std"] == pytest.approx(training.std())
    mass = [np.log10(m.properties["mass"]) for m in pool if m.formula not in held and "mass" in m.properties]
    assert made.card["scaling"]["mass"] == {
        "scale": "log10",
        "mean": pytest.approx(np.mean(mass)),
        "std": pytest.approx(np.std(mass)),
    }
    assert made.card["materials"]["held_out"] == sum(m.formula in held for m in pool)
    statistics = crystal_statistics(m.crystal for m in pool if m.formula not in held)
    np.testing.assert_allclose(made.network.statistics_mean, statistics.mean(0), rtol=1e-4)


def is_held_out(formula: str) -> bool:
    import hashlib

    digest = hashlib.sha256(f"{STAGE.seed} {formula}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < STAGE.held_out_fraction


def test_held_out_formulas_change_nothing(made, pool, backbone):
    odd = [
        replace(m, properties={name: value * 50 for name, value in m.properties.items()})
        if is_held_out(m.formula)
        else m
        for m in pool
    ]
    again = train_stage("small", STAGE, backbone, DataSet(odd))
    assert again.sha256 == made.sha256
    assert again.card["held_out"] != made.card["held_out"]


def test_the_same_recipe_makes_the_same_weights(made, pool, backbone):
    torch.rand(4)
    again = train_stage("small", STAGE, backbone, DataSet(pool))
    assert again.sha256 == made.sha256
    assert again.card == made.card
    assert train_stage("small", replace(STAGE, seed=1), backbone, DataSet(pool)).sha256 != made.sha256


def test_the_card_tells_it_all_and_loads_again(made, pool, backbone, tmp_path):
    again = load_backbone(made.save(tmp_path))
    assert again.network.properties == ("volume", "mass")
    assert again.card["start"] == {"name": backbone.name, "sha256": backbone.sha256}
    assert [stage["properties"] for stage in again.card["lineage"]][-1] == ["volume", "mass"]
    assert again.card["seen"]["mass"] == sorted(m.content_hash[:12] for m in pool if "mass" in m.properties)
    assert again.card["materials"]["sha256"] == materials_hash(pool) == materials_hash(pool[::-1])
    assert again.groups["trunk"] == slice(248, 264)


def test_the_start_is_not_touched(made, backbone):
    assert backbone.card["sha256"] == type(backbone)(backbone.name, backbone.network, {}).sha256


def test_crystals_that_cannot_be_used_are_left_out(pool, backbone):
    useless = [replace(pool[0], properties={"other": 1.0}), replace(pool[1], properties={"volume": float("inf")})]
    card = train_stage("small", replace(STAGE, max_sites=3), backbone, DataSet([*pool[2:], *useless])).card
    small = [m for m in pool[2:] if len(m.crystal) <= 3]
    assert card["materials"]["given"] == len(pool)
    assert 50 < card["materials"]["used"] == len(small) < len(pool) - 2


def test_nothing_held_out_leaves_the_table_empty(pool, backbone):
    recipe = replace(STAGE, held_out_fraction=0.0, schedule=Schedule(epochs=1))
    assert train_stage("small", recipe, backbone, DataSet(pool)).card["held_out"]["volume"] == {
        "labels_trained": len(pool),
        "labels_held_out": 0,
    }


def test_properties_that_cannot_be_learned(pool, backbone):
    with pytest.raises(TooFewLabelsError, match=r"'mas' .*0 .* 50 "):
        train_stage("small", STAGE, backbone, DataSet(pool, (PropertyTask("volume"), PropertyTask("mas"))))
    negative = [replace(m, properties={"volume": -1.0}) for m in pool]
    with pytest.raises(TooFewLabelsError, match=r"'volume' .*0 "):
        train_stage("small", replace(STAGE, tasks=(PropertyTask("volume", "log10"),)), backbone, DataSet(negative))
    with pytest.raises(TooFewLabelsError, match=r"'volume' .*\(-1\)"):
        train_stage("small", replace(STAGE, tasks=(PropertyTask("volume"),)), backbone, DataSet(negative))


def test_copies_give_their_properties_to_the_first(pool):
    first, second, third = pool[:3]
    copies = [
        replace(first, properties={"a": 1.0}),
        replace(second, properties={"a": 2.0}),
        replace(first, id="copy", properties={"a": 9.0, "b": 3.0}),
        replace(first, id="another", properties={"c": 4.0}),
        third,
    ]
    merged = merge_copies(copies)
    assert [m.id for m in merged] == [first.id, second.id, third.id]
    assert merged[0].properties == {"a": 1.0, "b": 3.0, "c": 4.0}
    assert copies[0].properties == {"a": 1.0}


SMALL_BODY = {"dim_edge_embedding": 12, "hidden_layer_sizes_input": [12, 8], "hidden_layer_sizes_conv": [12, 8]}
CHAIN = Recipe(
    "chain",
    (
        replace(STAGE, name="first", data="many", start="scratch:megnet", body=SMALL_BODY, tasks=STAGE.tasks[:1]),
        replace(
            STAGE, name="second", data="few", keep="heads", strategy="blocks:1", min_labels=8, tasks=STAGE.tasks[:1],
            fidelity="dft",
        ),
        replace(STAGE, name="third", data="few", keep="trunk", strategy="last", min_labels=8, tasks=STAGE.tasks[1:]),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def data(pool):
    return {"many": DataSet(pool[60:]), "few": DataSet(pool[:60], fidelities={"volume": ["dft"]})}


@pytest.fixture(scope="module")
def chain(data, tmp_path_factory):
    told = []
    work = tmp_path_factory.mktemp("chain")
    return work, list(run_stages(CHAIN, data, work, say=told.append)), told


class TestChains:
    def test_every_stage_is_in_the_lineage(self, chain, data, pool):
        _, made, told = chain
        lineage = made[-1].card["lineage"]
        assert [stage["stage"] for stage in lineage] == ["first", "second", "third"]
        assert [stage["start"] for stage in lineage] == ["scratch-megnet", "chain-first", "chain-second"]
        assert [b.name for b in made] == ["chain-first", "chain-second", "chain"]
        assert [stage["start_sha256"] for stage in lineage[1:]] == [b.sha256 for b in made[:2]]
        assert lineage[0]["data_hash"] != lineage[1]["data_hash"]
        assert lineage[1]["fidelity"] == "dft"
        assert lineage[0]["loaded"]["matched"] == 0, "a random body is not loaded from anywhere"
        assert lineage[1]["loaded"]["new"] == 0, "body, trunk and head go on"
        assert lineage[2]["loaded"]["new"] == 2, "the head is of another property"
        assert lineage[2]["trained"] == {"tensors": 2, "parameters": 17}
        assert lineage[1]["held_out"] == made[1].card["held_out"]
        assert any("last trains 2 tensors, 17 of" in line for line in told)
        assert any("stage second, epoch 3 of 3: loss" in line for line in told)

    def test_what_any_stage_saw_is_known(self, chain, pool):
        _, made, _ = chain
        small = {m.content_hash[:12] for m in pool if len(m.crystal) <= STAGE.max_sites}
        assert set(made[-1].card["seen"]["volume"]) == small
        assert set(made[-1].card["seen"]) == {"volume", "mass"}

    def test_frozen_weights_stayed(self, chain):
        _, made, _ = chain
        first, second, third = (b.network.state_dict() for b in made)
        changed = {
            name.split(".")[2] for name in first if "blocks" in name and not torch.equal(first[name], second[name])
        }
        assert changed == {"2"}
        same = [name for name in second if not name.startswith("heads.") and not torch.equal(second[name], third[name])]
        assert same == []

    def test_finished_stages_are_not_done_again(self, chain, data):
        work, made, _ = chain
        told = []
        again = list(run_stages(CHAIN, data, work, say=told.append))
        assert told == [f"stage {name} is finished already" for name in ("first", "second", "third")]
        assert [b.sha256 for b in again] == [b.sha256 for b in made]

    def test_an_interrupted_chain_ends_as_if_it_had_not_been(self, chain, data, tmp_path):
        _, made, _ = chain

        def interrupt(line):
            if "stage second, epoch 2" in line:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(run_stages(CHAIN, data, tmp_path, say=interrupt))
        told = []
        again = list(run_stages(CHAIN, data, tmp_path, say=told.append))
        assert told[0] == "stage first is finished already"
        assert next(line for line in told if "stage second, epoch" in line).startswith("stage second, epoch 3")
        assert [b.sha256 for b in again] == [b.sha256 for b in made]
        assert again[-1].card == made[-1].card
        assert not list(tmp_path.glob("*/training.pt"))

    def test_another_chain_in_its_folder_is_refused(self, chain, data):
        work, _, _ = chain
        other = replace(CHAIN, stages=(replace(CHAIN.stages[0], seed=3), *CHAIN.stages[1:]))
        with pytest.raises(TrainingError, match="1-first "):
            list(run_stages(other, data, work))

    def test_a_given_start_takes_the_place_of_scratch(self, data, backbone, tmp_path):
        first = next(run_stages(CHAIN, data, tmp_path, start=backbone))
        assert first.card["start"]["name"] == backbone.name

    def test_a_head_that_goes_on_predicts_the_same_values_at_first(self, made, pool):
        """Its scale is made up for: labels of other mean and width do not change what it says in true units."""
        task = PropertyTask("volume")
        graphs = GraphData([], np.zeros((2, 88), np.float32), np.zeros((2, 1), np.float32), made.node_types)
        other = StageData([], graphs, np.zeros(2, dtype=bool), Scaling(np.array([7.0]), np.array([3.0])))
        stage = replace(STAGE, keep="heads", tasks=(task,))
        network, _ = begin_network(stage, made, (task,), other)
        trunk = torch.randn(5, 16)
        before = made.card["scaling"]["volume"]
        expected = made.network.heads(trunk)[:, 0] * before["std"] + before["mean"]
        torch.testing.assert_close(network.heads(trunk)[:, 0] * 3.0 + 7.0, expected)

    @pytest.mark.parametrize("kind", ["megnet", "m3gnet", "tensornet"])
    def test_from_scratch(self, kind):
        first, again, other = (scratch_backbone(f"scratch:{kind}", {}, seed) for seed in (0, 0, 1))
        assert first.sha256 == again.sha256 != other.sha256
        assert first.network.readout_size > 0
        assert not first.network.trunk_size


class TestRefusals:
    def test_fidelities_are_not_mixed_in_silence(self, pool, backbone):
        both = DataSet(pool, fidelities={"volume": {"agl", "dft"}})
        with pytest.raises(TrainingError, match=r"'volume' .*agl, dft"):
            train_stage("x", STAGE, backbone, both)
        with pytest.raises(TrainingError, match=r"exp.*'volume' .*agl"):
            train_stage("x", replace(STAGE, fidelity="exp"), backbone, DataSet(pool, fidelities={"volume": ["agl"]}))
        train_stage("x", replace(STAGE, mix_fidelities=True, schedule=Schedule(epochs=1)), backbone, both)

    def test_data_and_start_that_are_missing(self, data, tmp_path):
        with pytest.raises(TrainingError, match="many, few; few "):
            list(run_stages(CHAIN, {"many": data["many"]}, tmp_path))
        with pytest.raises(TrainingError, match="stage data "):
            list(run_stages(Recipe("x", (STAGE,)), {"data": data["many"]}, tmp_path))
        with pytest.raises(TrainingError, match="stage data "):
            train_stage("x", replace(STAGE, tasks=()), scratch_backbone("scratch:megnet", {}, 0), data["many"])

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ({"strategy": "some"}, "unknown strategy 'some'"),
            ({"loss": "l2"}, "unknown loss"),
            ({"keep": "all"}, "keeps 'all'; choose one of body, trunk, heads"),
            ({"strategy": "head", "keep": "trunk"}, "strategy 'head' takes new ones"),
            ({"start": "scratch:alignn"}, "one of scratch:megnet, scratch:m3gnet, scratch:tensornet"),
            ({"start": "scratch:megnet", "strategy": "frozen"}, "nothing to keep frozen"),
        ],
    )
    def test_settings_that_make_no_sense(self, wrong, words):
        with pytest.raises(TrainingError, match=words):
            replace(STAGE, **wrong)

    def test_recipes_that_make_no_sense(self):
        with pytest.raises(TrainingError, match="has no stage"):
            Recipe("x", ())
        with pytest.raises(TrainingError, match="share a name"):
            Recipe("x", (STAGE, STAGE))
        with pytest.raises(TrainingError, match=r"fourth; .*first, second, third"):
            CHAIN.without(["fourth"])
        assert CHAIN.without(["first"]).roles == ("few",)

    def test_a_start_without_what_is_kept(self, data):
        bare = scratch_backbone("scratch:megnet", {}, 0)
        with pytest.raises(BackboneError, match=r"needed from scratch-megnet for strategy full match; not.*trunk"):
            train_stage("x", replace(STAGE, keep="trunk"), bare, data["many"])

    def test_a_start_without_such_a_head(self, made, data):
        stage = replace(STAGE, keep="heads", tasks=(PropertyTask("volume", "log10"),))
        with pytest.raises(BackboneError, match=r"'volume' .*log10"):
            train_stage("x", stage, made, data["many"])

    def test_sizes_that_cannot_be_built(self):
        with pytest.raises(TrainingError, match=r"MEGNet .*{'activation_type': 'none'}"):
            scratch_backbone("scratch:megnet", {"activation_type": "none"}, 0)
        with pytest.raises(TrainingError, match=r"MEGNet .*'units'.*nblocks"):
            scratch_backbone("scratch:megnet", {"units": 3}, 0)

    def test_a_loss_that_is_no_number_leaves_the_last_good_network(self, pool, backbone, tmp_path):
        stage = replace(STAGE, schedule=Schedule(epochs=3, batch_size=16, learning_rate=1e30, clip_norm=1e30))
        with pytest.raises(DivergedError, match=r"stage data: .* in epoch 1.*learning rate.*last-good"):
            train_stage("x", stage, backbone, DataSet(pool), folder=tmp_path)
        load_backbone(tmp_path / "last-good")


def test_noise_is_learned_for_the_stage_alone(pool, backbone, tmp_path):
    made = train_stage("x", replace(STAGE, loss="nll", balance="size"), backbone, DataSet(pool))
    assert load_backbone(made.save(tmp_path)).sha256 == made.sha256
    assert made.card["held_out"]["volume"]["mae"] < made.card["held_out"]["volume"]["mae_of_the_mean"]
