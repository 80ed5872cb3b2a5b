"""Recipes shipped, read and refused."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from engine.exceptions import TrainingError
from engine.learning.pretraining.recipes import read_recipe, read_stage, shipped_recipes
from engine.learning.pretraining.stage import Recipe, Stage
from engine.learning.pretraining.tasks import PropertyTask

ROLES = {
    "paraisite": ("formation_energy", "agl", "target"),
    "pairwise": ("source", "target"),
    "multiproperty": ("sources", "target"),
    "fidelity": ("low", "high"),
    "megnet-multiproperty": ("data",),
    "megnet-multiproperty-agl": ("data",),
    "megnet-taught": ("data",),
}


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped(name):
    recipe = read_recipe(name)
    assert recipe.name == name
    assert recipe.roles == ROLES[name]
    for stage in recipe.stages:
        assert read_stage(json.loads(json.dumps(asdict(stage)))) == stage


def test_the_steps_of_paraisite():
    first, second, third = read_recipe("paraisite").stages
    assert first.start == "scratch:megnet"
    assert (second.fidelity, third.fidelity, third.keep) == ("agl", "dft", "heads")


def test_one_stage_alone(tmp_path):
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"tasks": [{"name": "a", "scale": "log10"}], "seed": 7}))
    assert read_recipe(path) == Recipe("own", (Stage(tasks=(PropertyTask("a", "log10"),), seed=7),))


def test_unknown():
    with pytest.raises(FileNotFoundError, match=r"'nope'.*fidelity, megnet-multiproperty, megnet-multi"):
        read_recipe("nope")


@pytest.mark.parametrize(
    "text",
    [
        "{", "{}", "[]", "3", '{"tasks": [{"nam": "a"}]}', '{"tasks": [], "epochs": 3}', '{"stages": []}',
        '{"stages": [{"strategy": "blocks"}]}', '{"stages": [{"schedule": {"epochs": 0}}]}', '{"stages": 3}',
    ],
)  # fmt: skip
def test_unreadable(tmp_path, text):
    path = tmp_path / "own.json"
    path.write_text(text)
    with pytest.raises(TrainingError, match="recipe"):
        read_recipe(path)
