"""Models come back from disk as they were, or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from engine.exceptions import BackboneError, ModelFileError, TrainingError
from engine.learning.ensemble.settings import EnsembleSettings
from engine.learning.ensemble.storage import (
    RECORD,
    cached_starts,
    load_ensemble,
    load_start,
    read_record,
    save_ensemble,
)
from engine.learning.ensemble.training import Labels, train_ensemble
from engine.learning.features.featuriser import Featuriser
from engine.learning.heads.members import fidelity_beneath
from engine.learning.heads.sparse_members import SparseMembers
from engine.learning.networks.schedule import Schedule
from tests.engine.learning.bodies import small_backbone
from tests.engine.learning.trained import Trained

SETTINGS = {
    "gp": EnsembleSettings(members=2, seed=1, trees=False),
    "trees": EnsembleSettings(members=2, seed=1),
    "mlp": EnsembleSettings(head="mlp", members=2, seed=1),
    "network": EnsembleSettings(
        strategy="full", head="network", members=2, seed=1, schedule=Schedule(epochs=3, batch_size=8)
    ),
    "blended": EnsembleSettings(strategy="full", members=2, seed=1, schedule=Schedule(epochs=3, batch_size=8)),
}


@pytest.fixture(scope="session")
def ensembles(labelled):
    labels = Labels(labelled.keys[:20], labelled.values[:20], "kappa", "log10")
    return Trained(lambda name: train_ensemble(labelled.featuriser, labels, SETTINGS[name]))


def test_a_model_above_another_fidelity_survives_the_disk(ensembles, labelled, tmp_path):
    labels = Labels(labelled.keys[20:40], labelled.values[20:40] + 0.3, "dear", "log10")
    first = train_ensemble(labelled.featuriser, labels, SETTINGS["trees"], lower_fidelity=ensembles["trees"])
    save_ensemble(first, tmp_path / "model")
    again = load_ensemble(tmp_path / "model")
    assert again.lower_fidelity.data_hash == ensembles["trees"].data_hash
    expected, found = (e.predict(labelled.featuriser, labelled.keys) for e in (first, again))
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.std, expected.std)
    with pytest.raises(TrainingError, match="both models need head 'gp'"):
        train_ensemble(labelled.featuriser, labels, SETTINGS["mlp"], lower_fidelity=first)
    with pytest.raises(TrainingError, match="both models need head 'gp'"):
        train_ensemble(labelled.featuriser, labels, SETTINGS["mlp"], lower_fidelity=again)


def test_three_fidelities_survive_the_disk(ensembles, labelled, tmp_path):
    """The middle one's process has all its labels, which its members share out; each level is predicted by its name."""
    middle = Labels(labelled.keys[15:35], labelled.values[15:35] + 0.3, "kappa", "log10")
    second = train_ensemble(labelled.featuriser, middle, SETTINGS["trees"], lower_fidelity=ensembles["trees"])
    process = second.members.process
    assert process.fidelities == ("cheaper 2", "cheaper")
    assert (process.tensors.level == 1).sum() == 20
    top = Labels(labelled.keys[30:45], labelled.values[30:45] + 0.6, "kappa", "log10")
    third = train_ensemble(labelled.featuriser, top, SETTINGS["trees"], lower_fidelity=second)
    save_ensemble(third, tmp_path / "model")
    again = load_ensemble(tmp_path / "model")
    names = [fidelity_beneath(k) for k in range(3)]
    means = []
    for name in names:
        expected, found = (e.predict(labelled.featuriser, labelled.keys, name) for e in (third, again))
        np.testing.assert_allclose(found.mean, expected.mean)
        means.append(expected.mean.mean())
        told = third.information_ratio(labelled.featuriser, labelled.keys, name)
        assert (told > 0).all()
        assert (told <= 1 + 1e-6).all()
    assert means[0] > means[1] > means[2]
    draws = third.posterior(labelled.featuriser, labelled.keys, 64, 0)
    assert np.abs(draws.at(names[2]).draws(np.arange(10)) - draws.draws(np.arange(10))).mean() > 0.1
    fewer = second.without(labelled.keys[15:17], labelled.featuriser.embeddings(labelled.keys[15:17]))
    assert (fewer.members.process.tensors.level == 1).sum() == 18


@pytest.fixture(scope="session")
def sparse(labelled):
    """A model of more labels than an exact process is given, with fewer inducing points than labels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("engine.learning.heads.gp_members.EXACT_ROWS", 30)
        patch.setattr("engine.learning.heads.sparse_members.INDUCING", 25)
        labels = Labels(labelled.keys[:40], labelled.values[:40], "kappa", "log10")
        return train_ensemble(labelled.featuriser, labels, EnsembleSettings(members=3, seed=1))


def test_a_sparse_model_survives_the_disk(sparse, labelled, tmp_path):
    save_ensemble(sparse, tmp_path / "model")
    again = load_ensemble(tmp_path / "model")
    assert isinstance(again.members, SparseMembers)
    assert len(again.members.heads[0].process.prior.tensors.x) == 25
    expected, found = (e.predict(labelled.featuriser, labelled.keys) for e in (sparse, again))
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.std, expected.std)
    rows = np.arange(len(labelled.keys))
    drawn = [e.posterior(labelled.featuriser, labelled.keys, 6, seed=1).draws(rows) for e in (sparse, again)]
    np.testing.assert_array_equal(*drawn)
    assert sparse.metrics["chosen"].startswith("frozen sparse gp")
    assert sparse.metrics["model"]["mae"] < sparse.metrics["constant"]["mae"]


def test_a_model_above_a_sparse_one_survives_the_disk(sparse, labelled, tmp_path):
    labels = Labels(labelled.keys[40:], labelled.values[40:] + 0.3, "dear", "log10")
    first = train_ensemble(labelled.featuriser, labels, SETTINGS["gp"], lower_fidelity=sparse)
    save_ensemble(first, tmp_path / "model")
    expected, found = (
        e.predict(labelled.featuriser, labelled.keys) for e in (first, load_ensemble(tmp_path / "model"))
    )
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.std, expected.std)
    fewer = load_ensemble(tmp_path / "model").lower_fidelity.without(labelled.keys[:2], labelled.embeddings[:2])
    assert len(fewer.members.heads[0].process.labels.label_key) == 38
    assert len(fewer.seen) == 38
    changed = np.abs(
        fewer.members.process.predict(labelled.embeddings)[0] - sparse.members.process.predict(labelled.embeddings)[0]
    )
    assert changed[:2].max() > 3 * np.median(changed[2:])


@pytest.fixture
def saved(ensembles, tmp_path) -> Path:
    save_ensemble(ensembles["gp"], tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("name", SETTINGS)
def test_predictions_survive_the_disk(ensembles, labelled, name, tmp_path):
    first = ensembles[name]
    record = save_ensemble(first, tmp_path / "model")
    again = load_ensemble(tmp_path / "model")
    for field in ("settings", "property", "scale", "noise", "calibration", "metrics", "data_hash", "seen"):
        assert getattr(again, field) == getattr(first, field), field
    assert again.backbone.sha256 == first.backbone.sha256
    expected, found = (e.predict(labelled.featuriser, labelled.keys) for e in (first, again))
    np.testing.assert_array_equal(found.mean, expected.mean)
    np.testing.assert_array_equal(found.std, expected.std)
    assert [m["seed"] for m in record["members"]] == [1000, 1001]
    assert record == read_record(tmp_path / "model") == json.loads(json.dumps(record))


def test_a_changed_or_missing_checkpoint_is_refused(saved):
    path = saved / "member-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"member-1\.safetensors is missing or does not have the SHA-256"):
        load_ensemble(saved)
    path.unlink()
    with pytest.raises(ModelFileError, match=r"member-1\.safetensors is missing"):
        load_ensemble(saved)


def test_changed_trees_are_refused(ensembles, tmp_path):
    record = save_ensemble(ensembles["trees"], tmp_path)
    assert [file["path"] for file in record["files"] if file["path"].startswith("trees")] == ["trees.safetensors"]
    path = tmp_path / "trees.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"trees\.safetensors is missing or does not have the SHA-256"):
        load_ensemble(tmp_path)


def test_a_model_made_before_trees_were_blended(ensembles, labelled, tmp_path):
    first = ensembles["gp"]
    record = save_ensemble(first, tmp_path)
    del record["shares"], record["settings"]["trees"]
    (tmp_path / RECORD).write_text(json.dumps({**record, "network_share": None}))
    found, expected = (e.predict(labelled.featuriser, labelled.keys) for e in (load_ensemble(tmp_path), first))
    np.testing.assert_array_equal(found.mean, expected.mean)


def test_a_changed_backbone_is_refused(saved):
    card = json.loads((saved / "backbone" / "card.json").read_text())
    path = saved / "backbone" / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\0\0\0\0")
    with pytest.raises(BackboneError, match="SHA-256"):
        load_ensemble(saved)
    assert card["sha256"] == read_record(saved)["backbone"]["sha256"]


def test_another_backbone_in_its_place_is_refused(saved):
    record = json.loads((saved / RECORD).read_text())
    record["backbone"]["sha256"] = "0" * 64
    (saved / RECORD).write_text(json.dumps(record))
    with pytest.raises(ModelFileError, match="was trained on backbone 000000000000"):
        load_ensemble(saved)


def test_what_is_no_model(tmp_path):
    with pytest.raises(ModelFileError, match=r"holds no ensemble\.json"):
        load_ensemble(tmp_path)
    (tmp_path / RECORD).write_text("{")
    with pytest.raises(ModelFileError, match="is not JSON"):
        load_ensemble(tmp_path)


def test_models_share_backbones(ensembles, tmp_path):
    for name in ("gp", "mlp"):
        save_ensemble(ensembles[name], tmp_path / "models" / name, tmp_path / "backbones")
    sha256 = ensembles["gp"].backbone.sha256
    assert [p.name for p in (tmp_path / "backbones").iterdir()] == [sha256[:32]]
    assert not (tmp_path / "models" / "gp" / "backbone").exists()
    moved = (tmp_path / "elsewhere").resolve()
    moved.mkdir()
    for folder in ("models", "backbones"):
        (tmp_path / folder).rename(moved / folder)
    assert load_ensemble(moved / "models" / "gp").backbone.sha256 == sha256


class TestCache:
    """Backbones stay in memory while their files stay what they are."""

    def test_the_same_files_are_read_once(self, tmp_path):
        small_backbone("MEGNet", trunk=True).save(tmp_path)
        assert cached_starts(tmp_path) is cached_starts([str(tmp_path)])
        assert cached_starts("megnet-multiproperty") is cached_starts("megnet-multiproperty")

    def test_a_backbone_replaced_under_its_path_is_seen(self, tmp_path):
        """Even by one of the same size and with the same times."""
        first = small_backbone("MEGNet", trunk=True).save(tmp_path)
        before, status = cached_starts(first), {p.name: p.stat() for p in first.iterdir()}
        other = small_backbone("MEGNet", trunk=True)
        with torch.no_grad():
            other.network.heads.weight.add_(1.0)
        other.save(first)
        for path in first.iterdir():
            os.utime(path, ns=(status[path.name].st_atime_ns, status[path.name].st_mtime_ns))
        assert cached_starts(first).sha256 == other.sha256 != before.sha256

    def test_weights_that_no_longer_fit_their_card_are_refused(self, tmp_path):
        folder = small_backbone("MEGNet").save(tmp_path)
        cached_starts(folder)
        path = folder / "weights.safetensors"
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(BackboneError, match="SHA-256"):
            cached_starts(folder)


class TestStart:
    def test_from_a_backbone(self, backbone, tmp_path):
        assert load_start("megnet-multiproperty").sha256 == backbone.sha256
        assert load_start(backbone.save(tmp_path)).sha256 == backbone.sha256

    def test_from_a_frozen_model_is_from_its_backbone(self, saved, backbone):
        start = load_start(saved)
        assert start.sha256 == backbone.sha256
        assert "kappa" not in start.card["seen"], "its embedding has seen no label"

    def test_from_a_full_model_is_from_its_first_network(self, ensembles, labelled, materials, tmp_path):
        save_ensemble(ensembles["network"], tmp_path / "tuned")
        start = load_start(tmp_path / "tuned")
        assert start.name == "tuned/member-0"
        assert start.sha256 != ensembles["network"].backbone.sha256
        assert start.card["lineage"][-1]["properties"] == ["kappa"]
        assert start.card["lineage"][:-1] == ensembles["network"].backbone.card["lineage"]
        assert start.card["seen"]["kappa"] == sorted(key[:12] for key in labelled.keys[:20])
        embedding = start.embed_crystals(m.crystal for m in materials)
        assert np.abs(embedding - labelled.embeddings).max() > 1e-4

        featuriser = Featuriser(start, tmp_path / "features")
        featuriser.add({m.content_hash: m.crystal for m in materials})
        labels = Labels(labelled.keys, labelled.values, "dft", "log10")
        second = train_ensemble(featuriser, labels, SETTINGS["network"])
        save_ensemble(second, tmp_path / "again")
        lineage = load_start(tmp_path / "again").card["lineage"]
        assert [stage["start"] for stage in lineage[-2:]] == ["tuned", "again"]
        assert {"kappa", "dft"} <= set(load_start(tmp_path / "again").card["seen"])
