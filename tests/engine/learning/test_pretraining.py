"""Pre-training on several properties, few of them known of each crystal."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.exceptions import TooFewLabelsError, TrainingError
from engine.learning.backbone import load_backbone
from engine.learning.composition import composition_statistics
from engine.learning.pretraining import (
    PretrainingRecipe,
    PropertyTask,
    materials_hash,
    merge_copies,
    pretrain,
    read_recipe,
)
from engine.learning.training import Schedule
from engine.materials.identity import identify
from engine.materials.reference import reference_crystals

RECIPE = PretrainingRecipe(
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
    return pretrain("small", backbone, pool, RECIPE)


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
    statistics = composition_statistics(m.crystal for m in pool if m.formula not in held)
    np.testing.assert_allclose(made.network.statistics_mean, statistics.mean(0), rtol=1e-4)


def is_held_out(formula: str) -> bool:
    import hashlib

    digest = hashlib.sha256(f"{RECIPE.seed} {formula}".encode()).digest()
    return int.from_bytes(digest[:4], "big") / 2**32 < RECIPE.held_out_fraction


def test_held_out_formulas_change_nothing(made, pool, backbone):
    odd = [
        replace(m, properties={name: value * 50 for name, value in m.properties.items()})
        if is_held_out(m.formula)
        else m
        for m in pool
    ]
    again = pretrain("small", backbone, odd, RECIPE)
    assert again.sha256 == made.sha256
    assert again.card["held_out"] != made.card["held_out"]


def test_the_same_recipe_makes_the_same_weights(made, pool, backbone):
    torch.rand(4)
    again = pretrain("small", backbone, pool, RECIPE)
    assert again.sha256 == made.sha256
    assert again.card == made.card
    assert pretrain("small", backbone, pool, replace(RECIPE, seed=1)).sha256 != made.sha256


def test_the_card_tells_it_all_and_loads_again(made, pool, backbone, tmp_path):
    again = load_backbone(made.save(tmp_path))
    assert again.network.properties == ("volume", "mass")
    assert again.card["start"] == {"name": backbone.name, "sha256": backbone.sha256}
    assert [stage["properties"] for stage in again.card["lineage"]][-1] == ["volume", "mass"]
    assert again.card["seen"]["mass"] == sorted(m.content_hash[:12] for m in pool if "mass" in m.properties)
    assert again.card["materials"]["sha256"] == materials_hash(pool) == materials_hash(pool[::-1])
    assert again.groups["trunk"] == slice(188, 204)


def test_the_start_is_not_touched(made, backbone):
    assert backbone.card["sha256"] == type(backbone)(backbone.name, backbone.network, {}).sha256


def test_crystals_that_cannot_be_used_are_left_out(pool, backbone):
    useless = [replace(pool[0], properties={"other": 1.0}), replace(pool[1], properties={"volume": float("inf")})]
    card = pretrain("small", backbone, [*pool[2:], *useless], replace(RECIPE, max_sites=3)).card
    small = [m for m in pool[2:] if len(m.crystal) <= 3]
    assert card["materials"]["given"] == len(pool)
    assert 50 < card["materials"]["used"] == len(small) < len(pool) - 2


def test_nothing_held_out_leaves_the_table_empty(pool, backbone):
    recipe = replace(RECIPE, held_out_fraction=0.0, schedule=Schedule(epochs=1))
    assert pretrain("small", backbone, pool, recipe).card["held_out"]["volume"] == {
        "labels_trained": len(pool),
        "labels_held_out": 0,
    }


def test_properties_that_cannot_be_learned(pool, backbone):
    with pytest.raises(TooFewLabelsError, match="'mas' has 0 usable labels, 50 are needed"):
        pretrain("small", backbone, pool, replace(RECIPE, tasks=(PropertyTask("volume"), PropertyTask("mas"))))
    negative = [replace(m, properties={"volume": -1.0}) for m in pool]
    with pytest.raises(TooFewLabelsError, match="'volume' has 0 usable labels"):
        pretrain("small", backbone, negative, replace(RECIPE, tasks=(PropertyTask("volume", "log10"),)))
    with pytest.raises(TooFewLabelsError, match=r"all \d+ labels of 'volume' are equal \(-1\)"):
        pretrain("small", backbone, negative, replace(RECIPE, tasks=(PropertyTask("volume"),)))


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


class TestRecipes:
    def test_shipped(self):
        recipe = read_recipe("megnet-multiproperty")
        assert len(recipe.tasks) == 4
        assert recipe.schedule.epochs == 20

    def test_from_a_file(self, tmp_path):
        path = tmp_path / "own.json"
        path.write_text(json.dumps({"tasks": [{"name": "a", "scale": "log10"}], "seed": 7}))
        assert read_recipe(path) == replace(PretrainingRecipe((PropertyTask("a", "log10"),)), seed=7)

    def test_unknown(self):
        with pytest.raises(
            FileNotFoundError, match=r"no recipe 'nope'.*megnet-multiproperty, megnet-multiproperty-agl"
        ):
            read_recipe("nope")

    @pytest.mark.parametrize("text", ["{", "{}", '{"tasks": [{"nam": "a"}]}', '{"tasks": [], "epochs": 3}'])
    def test_unreadable(self, tmp_path, text):
        path = tmp_path / "own.json"
        path.write_text(text)
        with pytest.raises(TrainingError, match="compare it with a shipped one"):
            read_recipe(path)
