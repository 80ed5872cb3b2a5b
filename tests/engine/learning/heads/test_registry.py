"""A head is one class: settings, training, prediction and files know it by its registration."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from engine.exceptions import TrainingError
from engine.learning.ensemble.settings import EnsembleSettings
from engine.learning.ensemble.storage import load_ensemble, save_ensemble
from engine.learning.ensemble.training import Labels, train_ensemble
from engine.learning.heads import registry
from engine.learning.heads.members import Members


@dataclass(frozen=True, eq=False)
class MedianMembers(Members[float]):
    """Each member predicts the median of its labels for every crystal."""

    kind = "median"

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
def median(monkeypatch):
    monkeypatch.setattr(registry, "HEADS", dict(registry.HEADS))
    return registry.register(MedianMembers)


def test_a_new_head_is_trained_stored_and_read(median, labelled, tmp_path):
    labels = Labels(labelled.keys[:20], labelled.values[:20], "kappa", "log10")
    settings = EnsembleSettings(head=median.kind, members=4)
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
    with pytest.raises(TrainingError, match="unknown head 'forest'; choose one of gp, mlp, network"):
        registry.members_class("forest")
