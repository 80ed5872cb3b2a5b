"""Teachers: their columns, a stage that learns them too, and what is left of them afterwards."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from engine.exceptions import BackboneError, DivergedError, TrainingError
from engine.learning.backbones.backbone import Backbone, load_backbone
from engine.learning.features.statistics import STATISTICS
from engine.learning.networks.finetune import start_network
from engine.learning.networks.schedule import FineTuning, Schedule
from engine.learning.networks.strategies import FULL
from engine.learning.networks.training import TrainingRun, train_network
from engine.learning.pretraining.distillation import load_teachers, teacher_columns
from engine.learning.pretraining.recipes import read_recipe, read_stage
from engine.learning.pretraining.stage import Recipe, Stage
from engine.learning.pretraining.stages import run_stages
from engine.learning.pretraining.tasks import DataSet, PropertyTask, seen_prefixes
from engine.learning.pretraining.training import train_stage
from tests.engine.learning.bodies import small_backbone

STAGE = Stage(
    tasks=(PropertyTask("kappa", "log10"),),
    schedule=Schedule(epochs=3, batch_size=16, learning_rate=1e-2, validation_fraction=0.0),
    held_out_fraction=0.2,
    min_labels=10,
    trunk_size=16,
)
TRAINING = np.arange(60) < 40


def quiet(_: str) -> None:
    pass


def teacher_of(kind: str, name: str, folder, trunk: bool = False, **settings) -> str:
    """Path of a small untrained teacher that has seen the hardness of a crystal."""
    network = small_backbone(kind, trunk, **settings).network
    return str(Backbone(name, network, {"seen": {"hardness": ["aaaaaaaaaaaa"]}}).save(folder / name))


@pytest.fixture(scope="module")
def tutor(tmp_path_factory) -> str:
    return teacher_of("TensorNet", "tutor", tmp_path_factory.mktemp("tutor"), trunk=True)


@pytest.fixture(scope="module")
def dean(tmp_path_factory) -> str:
    return teacher_of("M3GNet", "dean", tmp_path_factory.mktemp("dean"))


@pytest.fixture(scope="module")
def start() -> Backbone:
    network = small_backbone("MEGNet").network
    return Backbone("pupil", network, {"seen": {"hardness": ["bbbbbbbbbbbb"], "colour": ["cccccccccccc"]}})


def says(teacher: Backbone, materials) -> np.ndarray:
    """All that a teacher knows of crystals, straight from it."""
    return teacher.embed_crystals(m.crystal for m in materials)[:, len(STATISTICS) :].astype(float)


class TestColumns:
    def test_standardised_on_training_rows(self, tutor, materials):
        (teacher,) = load_teachers([tutor])
        told = []
        columns = teacher_columns([teacher], materials, TRAINING, None, told.append)
        direct = says(teacher, materials)
        expected = (direct - direct[TRAINING].mean(0)) / direct[TRAINING].std(0)
        np.testing.assert_allclose(columns, expected, rtol=1e-3, atol=1e-3)
        np.testing.assert_allclose(columns[TRAINING].mean(0), 0, atol=1e-4)
        np.testing.assert_allclose(columns[TRAINING].std(0), 1, atol=1e-4)
        assert np.abs(columns[~TRAINING].std(0) - 1).max() > 0.05
        assert columns.dtype == np.float32
        assert told == ["teacher tutor: 60 of 60 crystals"]

    def test_no_teacher(self, materials, tmp_path):
        assert teacher_columns((), materials, TRAINING, tmp_path, quiet) is None
        assert not list(tmp_path.iterdir())

    def test_a_column_that_says_nothing_is_left_out(self, tutor, materials):
        (teacher,) = load_teachers([tutor])
        every = teacher_columns([teacher], materials, TRAINING, None, quiet)
        with torch.no_grad():
            teacher.network.trunk[2].weight[3] = 0.0
        stuck = teacher.network.readout_size + 3
        found = teacher_columns([teacher], materials, TRAINING, None, quiet)
        np.testing.assert_allclose(found, np.delete(every, stuck, axis=1), atol=1e-5)

    def test_teachers_that_tell_no_training_row_apart_are_refused(self, tutor, materials):
        first, *others = materials[:3]
        rows = [replace(first, id=f"copy-{i}") for i in range(3)] + others
        with pytest.raises(TrainingError, match=r"tutor .* 3 "):
            teacher_columns(load_teachers([tutor]), rows, np.arange(5) < 3, None, quiet)

    def test_two_teachers_stand_side_by_side(self, tutor, dean, materials):
        both = load_teachers([tutor, dean])
        each = [teacher_columns([teacher], materials, TRAINING, None, quiet) for teacher in both]
        assert all(columns.shape[1] > 5 for columns in each)
        found = teacher_columns(both, materials, TRAINING, None, quiet)
        np.testing.assert_array_equal(found, np.concatenate(each, axis=1))

    def test_nothing_is_asked_twice(self, tutor, materials, tmp_path):
        (teacher,) = load_teachers([tutor])
        before = teacher_columns([teacher], materials[:50], TRAINING[:50], tmp_path, quiet)

        def refuse(module, args, kwargs):
            raise AssertionError("asked again")

        teacher.body.register_forward_pre_hook(refuse, with_kwargs=True)
        again = teacher_columns([teacher], materials[:50], TRAINING[:50], tmp_path, quiet)
        np.testing.assert_array_equal(again, before)
        with pytest.raises(AssertionError, match="asked again"):
            teacher_columns([teacher], materials, TRAINING, tmp_path, quiet)


LONG = replace(STAGE, schedule=replace(STAGE.schedule, epochs=30, batch_size=8))


@pytest.fixture(scope="module")
def taught(tutor, start, materials):
    return train_stage("taught", replace(LONG, teachers=(tutor,)), start, DataSet(materials))


@pytest.fixture(scope="module")
def plain(start, materials):
    return train_stage("plain", LONG, start, DataSet(materials))


class TestStage:
    def test_what_teachers_said_is_learned(self, taught, plain, tutor, materials):
        """The trunk tells the teacher's columns better than that of a network which learned its property alone."""
        target = says(load_teachers([tutor])[0], materials)
        target = (target - target.mean(0)) / target.std(0)

        def error(backbone):
            trunk = backbone.embed_crystals(m.crystal for m in materials)[:, backbone.groups["trunk"]].astype(float)
            trunk = (trunk - trunk.mean(0)) / (trunk.std(0) + 1e-9)
            weights = np.linalg.solve(trunk.T @ trunk + np.eye(trunk.shape[1]), trunk.T @ target)
            return np.abs(trunk @ weights - target).mean()

        assert error(taught) < 0.8 * error(plain)
        losses = [epoch["train_loss"] for epoch in taught.card["history"]]
        assert losses[-1] < 0.6 * losses[0]

    def test_the_finished_network_has_the_heads_of_its_properties_alone(self, taught, plain):
        assert taught.network.properties == ("kappa",)
        assert taught.network.imitation is None
        shapes = [{name: t.shape for name, t in b.network.state_dict().items()} for b in (taught, plain)]
        assert shapes[0] == shapes[1]
        assert taught.sha256 != plain.sha256

    def test_the_card_names_them(self, taught, plain, tutor):
        (teacher,) = load_teachers([tutor])
        assert taught.card["teachers"] == [{"name": "tutor", "sha256": teacher.sha256}]
        assert [stage["teachers"] for stage in taught.card["lineage"]] == [["tutor"]]
        assert "teachers" not in plain.card
        assert plain.card["lineage"][0]["teachers"] == []
        assert read_stage(json.loads(json.dumps(taught.card["recipe"]))) == replace(LONG, teachers=(tutor,))

    def test_what_they_saw_was_seen(self, taught, plain, materials):
        assert taught.card["seen"] == {
            "hardness": ["aaaaaaaaaaaa", "bbbbbbbbbbbb"],
            "colour": ["cccccccccccc"],
            "kappa": sorted(m.content_hash[:12] for m in materials),
        }
        assert plain.card["seen"]["hardness"] == ["bbbbbbbbbbbb"]

    def test_it_loads_again(self, taught, materials, tmp_path):
        again = load_backbone(taught.save(tmp_path))
        assert again.sha256 == taught.sha256
        crystals = [m.crystal for m in materials[:5]]
        np.testing.assert_array_equal(again.embed_crystals(crystals), taught.embed_crystals(crystals))

    def test_noise_goes_with_them(self, tutor, dean, start, materials, tmp_path):
        stage = replace(STAGE, loss="nll", teachers=(tutor, dean))
        made = train_stage("x", stage, start, DataSet(materials))
        assert [teacher["name"] for teacher in made.card["teachers"]] == ["tutor", "dean"]
        assert load_backbone(made.save(tmp_path)).sha256 == made.sha256

    def test_a_trunk_that_learns_is_taught_by_every_strategy(self, tutor, materials):
        start = small_backbone("MEGNet", trunk=True)
        for strategy in ("gradual", "blocks:1", "embedding_frozen", "frozen", "head"):
            stage = replace(STAGE, strategy=strategy, schedule=replace(STAGE.schedule, epochs=2))
            plain = train_stage("x", stage, start, DataSet(materials))
            taught = train_stage("x", replace(stage, teachers=(tutor,)), start, DataSet(materials))
            made, alone = (b.network.state_dict() for b in (taught, plain))
            learned = [b.card["lineage"][-1]["trained"]["tensors"] for b in (taught, plain)]
            assert learned[0] == learned[1] + 2, "the layer that is dropped afterwards learns too"
            assert not torch.equal(made["trunk.0.weight"], alone["trunk.0.weight"]), strategy
            same = [torch.equal(made[name], t) for name, t in start.network.state_dict().items() if "body" in name]
            assert all(same) == (strategy in ("frozen", "head")), strategy

    def test_an_interrupted_stage_goes_on_to_the_same_bits(self, tutor, start, materials, tmp_path):
        recipe, data = Recipe("pupil", (replace(STAGE, teachers=(tutor,)),)), {"data": DataSet(materials)}
        (expected,) = run_stages(recipe, data, tmp_path / "whole", start)

        def interrupt(line):
            if "stage data, epoch 2" in line:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            list(run_stages(recipe, data, tmp_path / "cut", start, interrupt))
        told = []
        (made,) = run_stages(recipe, data, tmp_path / "cut", start, told.append)
        assert [line[:19] for line in told if "epoch" in line] == ["stage data, epoch 3"]
        assert made.sha256 == expected.sha256
        assert made.card == expected.card
        assert not list(tmp_path.rglob("teachers")), "what they said is of no more use"

    def test_another_teacher_makes_another_stage(self, tutor, dean, start, materials, tmp_path):
        work, data = tmp_path / "work", {"data": DataSet(materials)}
        stage = replace(STAGE, schedule=replace(STAGE.schedule, epochs=1))
        own = teacher_of("M3GNet", "own", tmp_path)
        list(run_stages(Recipe("x", (replace(stage, teachers=(own,)),)), data, work, start))
        for teachers in ((), (tutor,), (own, dean)):
            with pytest.raises(TrainingError, match="other data, settings"):
                list(run_stages(Recipe("x", (replace(stage, teachers=teachers),)), data, work, start))
        teacher_of("M3GNet", "own", tmp_path, cutoff=4.5)  # the same name, other weights
        with pytest.raises(TrainingError, match="other data, settings"):
            list(run_stages(Recipe("x", (replace(stage, teachers=(own,)),)), data, work, start))

    def test_crystals_a_teacher_does_not_know_are_left_out(self, start, materials, tmp_path):
        unknown = {"Br", "I", "Se"}
        elements = tuple(e for e in small_backbone("M3GNet").body.element_types if e not in unknown)
        narrow = teacher_of("M3GNet", "narrow", tmp_path, element_types=elements)
        known = [m for m in materials if not unknown & set(m.crystal.symbols)]
        made = train_stage("x", replace(STAGE, teachers=(narrow,)), start, DataSet(materials))
        assert made.card["materials"]["given"] == 60
        assert 20 < made.card["materials"]["used"] == len(known) < 60

    def test_the_last_good_network_has_no_teacher_left(self, tutor, start, materials, tmp_path):
        schedule = replace(STAGE.schedule, learning_rate=1e30, clip_norm=1e30)
        stage = replace(STAGE, teachers=(tutor,), schedule=schedule)
        with pytest.raises(DivergedError, match="last-good"):
            train_stage("x", stage, start, DataSet(materials), folder=tmp_path)
        assert load_backbone(tmp_path / "last-good").network.imitation is None


class TestLoss:
    """Of a batch, with two properties, the second known of every other crystal."""

    ROWS = np.arange(9)

    @pytest.fixture
    def data(self, crystals_of, start, tutor, materials):
        data, _ = crystals_of(start)
        second = np.where(np.arange(60)[:, None] % 2, data.statistics[:, :1], np.nan)
        columns = teacher_columns(load_teachers([tutor]), materials, TRAINING, None, quiet)
        return replace(
            data, targets=np.concatenate([data.targets, second], 1).astype(np.float32), teacher_columns=columns
        )

    def network(self, start, data, teacher_columns, loss="huber"):
        options = {"trunk_size": 16, "keep_trunk": False, "loss": loss, "teacher_columns": teacher_columns}
        network, _ = start_network(start, ("first", "second"), 0, FULL, **options)
        network.fit_statistics(torch.from_numpy(data.statistics))
        return network

    def descend(self, start, data, *, teacher_columns=None, loss="huber", balance="equal", parts=1):
        """Loss of one batch and its gradients."""
        network = self.network(
            start, data, data.teacher_columns.shape[1] if teacher_columns is None else teacher_columns, loss
        )
        schedule = Schedule(epochs=1, validation_fraction=0.0, clip_norm=1e9)
        run = TrainingRun(network, data, self.ROWS, FineTuning(schedule, loss=loss, balance=balance), None)
        run.parts = parts
        total = run._descend(self.ROWS)
        return total, {name: p.grad for name, p in network.named_parameters() if p.grad is not None}

    @pytest.mark.parametrize(
        ("loss", "balance"), [("huber", "equal"), ("nll", "size"), ("l1", "uncertainty"), ("nll", "equal")]
    )
    def test_the_parts_of_a_batch_add_up(self, start, data, loss, balance):
        whole, gradients = self.descend(start, data, loss=loss, balance=balance)
        parted, added = self.descend(start, data, loss=loss, balance=balance, parts=4)
        assert parted == pytest.approx(whole, rel=1e-5)
        assert "imitation.weight" in gradients
        assert gradients.keys() == added.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(added[name], gradient, rtol=1e-3, atol=1e-5, msg=name)

    def test_all_columns_together_count_once(self, start, data):
        alone, _ = self.descend(start, data, teacher_columns=0)
        both, _ = self.descend(start, data)
        network = self.network(start, data, data.teacher_columns.shape[1]).eval()
        with torch.no_grad():
            said = network.imitation(network.embed(*data.batch(self.ROWS, torch.device("cpu")))[1])
        assert both - alone == pytest.approx(np.abs(said.numpy() - data.teacher_columns[self.ROWS]).mean(), rel=1e-4)

    def test_the_checkpoint_of_what_others_taught_is_refused(self, start, data, tmp_path):
        def train(given):
            network = self.network(start, data, data.teacher_columns.shape[1])
            train_network(network, given, np.arange(60), FineTuning(Schedule(epochs=1)), checkpoint=tmp_path)

        train(data)
        with pytest.raises(TrainingError, match="checkpoint"):
            train(replace(data, teacher_columns=data.teacher_columns + 1))


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"teachers": "abc"}, "teachers of stage data is 'abc'; give a list"),
            ({"teachers": ("a", "b", "a")}, r"names a teacher twice \(a, b, a\)"),
            ({"teachers": ("a",), "strategy": "last"}, "strategy 'last' leaves all frozen that could learn from them"),
        ],
    )
    def test_what_cannot_be_meant(self, options, message):
        with pytest.raises(TrainingError, match=message):
            Stage(**options)

    def test_an_unknown_teacher_before_anything_is_trained(self, start, materials, tmp_path):
        absent = str(tmp_path / "nobody")
        told = []
        for teacher, words in (
            (absent, "nobody"),
            ("megnet-multipropertie", r"no backbone 'megnet-multipropertie'; did you mean 'megnet-multiproperty'"),
        ):
            stages = (replace(STAGE, name="first"), replace(STAGE, name="second", teachers=(teacher,)))
            with pytest.raises(BackboneError, match=words):
                list(run_stages(Recipe("x", stages), {"data": DataSet(materials)}, tmp_path / "w", start, told.append))
        assert not told
        assert not (tmp_path / "w").exists()

    def test_in_recipes(self, tmp_path):
        path = tmp_path / "own.json"

        def read(**given):
            path.write_text(json.dumps({"tasks": [{"name": "a"}], **given}))
            return read_recipe(path)

        assert read(teachers=["one", "two"]).stages[0].teachers == ("one", "two")
        assert read().stages[0].teachers == ()
        with pytest.raises(TrainingError, match=r"stage 1: .*'teacher'.*'teachers'"):
            read(teacher=["one"])
        with pytest.raises(TrainingError, match=r'stage 1: teachers .*"one"'):
            read(teachers="one")


def test_what_start_and_teachers_had_seen_is_joined(materials):
    tasks = (PropertyTask("kappa"),)
    first, second = (m.content_hash[:12] for m in materials[:2])
    before = {"kappa": ["zz", first], "other": ["b"]}, {"other": ["a", "b"]}
    assert seen_prefixes(materials[:2], tasks, *before) == {
        "kappa": sorted({"zz", first, second}),
        "other": ["a", "b"],
    }
    assert before[0]["other"] == ["b"]
