"""A head is one class: settings, training, prediction and files know it by its registration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from campaigns.configuration.model import ModelSection
from engine.exceptions import TrainingError
from engine.learning.ensemble.settings import EnsembleSettings
from engine.learning.ensemble.storage import load_ensemble, save_ensemble
from engine.learning.ensemble.training import Labels, train_ensemble
from engine.learning.heads import kinds, registry
from engine.learning.heads.kinds import HeadKind, head_kind
from engine.learning.heads.members import Members
from tests.campaigns.helpers import FIELD, configure, done, kappascout, label_rows, reference_records, write_lines


@dataclass(frozen=True, eq=False)
class MedianMembers(Members[float]):
    """Each member predicts the median of its labels for every crystal."""

    kind = HeadKind("median", "the median of the labels")

    @classmethod
    def fit_heads(cls, data):
        return [float(np.median(data.values[rows])) for rows in data.jobs]

    @classmethod
    def predict_head(cls, head, crystals, number, rows):
        return np.full(len(rows), head), None

    def to_tensors(self):
        return [{"median": torch.tensor(head, dtype=torch.float64)} for head in self.heads]

    @classmethod
    def from_tensors(cls, tensors, backbone, lower):
        return cls(tuple(float(t["median"]) for t in tensors))


@pytest.fixture
def median():
    yield registry.register(MedianMembers).kind.name
    del kinds.KINDS["median"], registry.HEADS["median"]


def test_a_new_head_is_trained_stored_and_read(median, labelled, tmp_path):
    labels = Labels(labelled.keys[:20], labelled.values[:20], "kappa", "log10")
    settings = EnsembleSettings(head=median, members=4)
    first = train_ensemble(labelled.featuriser, labels, settings)
    assert first.metrics["chosen"] == "frozen median"
    save_ensemble(first, tmp_path)
    again = load_ensemble(tmp_path)
    assert isinstance(again.members, MedianMembers)
    expected, found = (e.predict(labelled.featuriser, labelled.keys) for e in (first, again))
    np.testing.assert_array_equal(found.mean, expected.mean)
    assert (found.std > 0).all()
    assert again.posterior(labelled.featuriser, labelled.keys, 32, 0).draws(np.arange(60)).shape == (32, 60)


def test_it_cannot_stand_on_a_lower_fidelity_nor_beside_networks(median, labelled):
    labels = Labels(labelled.keys[:20], labelled.values[:20], "kappa", "log10")
    lower = train_ensemble(labelled.featuriser, labels, EnsembleSettings(head="median", members=4))
    with pytest.raises(TrainingError, match="both models need head 'gp'"):
        train_ensemble(labelled.featuriser, labels, EnsembleSettings(members=4), lower_fidelity=lower)
    with pytest.raises(TrainingError, match="head 'median' reads cached embeddings"):
        EnsembleSettings(head="median", strategy="full")


def test_an_unknown_head_is_refused_with_those_there_are():
    with pytest.raises(TrainingError, match="unknown head 'forest'; known are gp, mlp, network"):
        registry.members_class("forest")
    with pytest.raises(TrainingError, match="did you mean 'network'"):
        head_kind("Networks")


def test_a_name_is_registered_once(median):
    with pytest.raises(TrainingError, match="a head 'median' is registered already"):
        registry.register(MedianMembers)
    assert registry.HEADS[median] is MedianMembers


def test_every_kind_has_a_class():
    assert {name: members.kind for name, members in registry.HEADS.items()} == kinds.KINDS


def test_train_and_a_campaign_know_it_by_name(median, tmp_path):
    records = write_lines(tmp_path / "x.jsonl", reference_records(24))
    train = ("train", records, "--property", FIELD, "--strategy", "none", "--members", 2, "--head")
    done(*train, median, "--out", tmp_path / "m")
    assert isinstance(load_ensemble(tmp_path / "m").members, MedianMembers)
    assert kappascout(*train, "medain", "--out", tmp_path / "n").code == 2

    campaign = tmp_path / "c"
    done("init", campaign, "--cold")
    done("ingest", campaign, records)
    done("label", "import", campaign, write_lines(tmp_path / "l.jsonl", label_rows(reference_records(12))))
    configure(campaign, {"campaign": {"batch": 2}, "model": {"head": median, "members": 2}})
    done("run", campaign, "--rounds", 1, "--no-wait")
    assert done("models", "list", campaign, "--format", "json").json[0]["head"] == median


def test_a_campaign_accepts_it_by_name(median):
    assert ModelSection(head=median).head == "median"
    with pytest.raises(ValueError, match="did you mean 'median'"):
        ModelSection(head="medain")
    with pytest.raises(ValueError, match="head 'median' reads cached embeddings"):
        ModelSection(head=median, networks="full")
