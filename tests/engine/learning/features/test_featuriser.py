"""Embeddings are made once per crystal and backbone, whatever happens in between."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from engine.exceptions import BackboneError
from engine.learning.features import featuriser as module
from engine.learning.features.featuriser import Featuriser, chunks


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
    real = module.embed
    monkeypatch.setattr(module, "embed", lambda cs, *rest: made.append(len(cs)) or real(cs, *rest))
    again.add(crystals)
    again.add(crystals)
    assert made == [8, 7]
    assert not again.missing(list(crystals))
    with pytest.raises(KeyError):
        again.embeddings(["absent"])


def test_every_backbone_has_its_own_folder(labelled, backbone):
    folder = labelled.featuriser._embeddings.folder
    assert folder.name == backbone.sha256[:32]


def test_chunks():
    assert [list(part) for part in chunks(list(range(5)), 2)] == [[0, 1], [2, 3], [4]]


def test_graphs_only_where_they_are_kept(backbone, materials, tmp_path, monkeypatch):
    crystals = {m.content_hash: m.crystal for m in materials[:6]}
    Featuriser(backbone, tmp_path, keep_graphs=False).add(crystals)
    assert not list(tmp_path.rglob("graphs/**/*.arrow"))
    monkeypatch.setattr(module, "embed", None)  # nothing is embedded again
    networks = Featuriser(backbone, tmp_path)
    assert networks.missing(list(crystals)) == list(crystals)
    networks.add(crystals)
    assert not networks.missing(list(crystals))
    assert [len(g.numbers) for g in networks.graphs(list(crystals))] == [len(c) for c in crystals.values()]


def test_half_precision_has_a_folder_of_its_own(labelled, backbone, materials, tmp_path):
    crystals = {m.content_hash: m.crystal for m in materials}
    half = Featuriser(backbone, tmp_path, keep_graphs=False, precision="float16")
    half.add(crystals)
    found = half.embeddings(labelled.keys)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, labelled.embeddings, rtol=1e-3, atol=1e-4)
    assert not Featuriser(backbone, tmp_path, keep_graphs=False).embeddings([]).size
    assert Featuriser(backbone, tmp_path, keep_graphs=False).missing(labelled.keys) == labelled.keys
    made = module.embed(dict(list(crystals.items())[:1]), backbone, False)
    with pytest.raises(BackboneError, match=r"does not fit float16 .*100000.*float32"):
        half.keep(replace(made, keys=["0" * 32], embeddings=np.full_like(made.embeddings, 1e5)))


def test_damaged_shards_are_named_and_made_again(backbone, materials, tmp_path):
    crystals = {m.content_hash: m.crystal for m in materials[:6]}
    Featuriser(backbone, tmp_path).add(crystals)
    before = Featuriser(backbone, tmp_path).embeddings(list(crystals))
    (path,) = (tmp_path / "embeddings").rglob("*.arrow")
    path.write_bytes(path.read_bytes()[:-1000])
    again = Featuriser(backbone, tmp_path)
    assert again.discard_broken() == [path.name]
    assert again.missing(list(crystals)) == list(crystals)
    again.add(crystals)
    np.testing.assert_array_equal(again.embeddings(list(crystals)), before)
