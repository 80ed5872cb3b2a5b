"""Embeddings are made once per crystal and backbone, whatever happens in between."""

from __future__ import annotations

import numpy as np
import pytest

from engine.learning import features as module
from engine.learning.features import Featuriser, chunks


def test_embeddings_come_back_as_they_were_made(labelled, backbone, materials):
    expected = backbone.embed_crystals(m.crystal for m in materials)
    np.testing.assert_allclose(labelled.embeddings, expected, rtol=1e-4, atol=1e-4)
    some = labelled.keys[20:3:-3]
    rows = [labelled.keys.index(k) for k in some]
    np.testing.assert_array_equal(labelled.featuriser.embeddings(some), labelled.embeddings[rows])
    assert labelled.featuriser.embeddings([]).shape == (0, 376)
    assert [len(g.numbers) for g in labelled.featuriser.graphs(some)] == [len(materials[i].crystal) for i in rows]


def test_only_what_is_missing_is_made(backbone, materials, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 8)
    crystals = {m.content_hash: m.crystal for m in materials[:20]}
    Featuriser(backbone, tmp_path).add(dict(list(crystals.items())[:5]))
    again = Featuriser(backbone, tmp_path)
    assert again.missing(list(crystals)) == list(crystals)[5:]
    made = []
    monkeypatch.setattr(module, "crystal_statistics", lambda cs: made.append(len(cs)) or statistics(cs))
    again.add(crystals)
    again.add(crystals)
    assert made == [8, 7]
    assert not again.missing(list(crystals))
    with pytest.raises(KeyError):
        again.embeddings(["absent"])


def statistics(crystals):
    from engine.learning.statistics import crystal_statistics

    return crystal_statistics(crystals)


def test_every_backbone_has_its_own_folder(labelled, backbone):
    folder = labelled.featuriser._embeddings.folder
    assert folder.name == backbone.sha256[:32]


def test_chunks():
    assert [list(part) for part in chunks(list(range(5)), 2)] == [[0, 1], [2, 3], [4]]
