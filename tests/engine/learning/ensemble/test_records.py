"""Shipped models: found by name, complete, as small as promised, honest about what they have seen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from campaigns.intake.reading import open_sources
from engine.exceptions import ModelFileError
from engine.learning.backbones.stack import make_featuriser
from engine.learning.ensemble.records import SEEN_DIGITS, model_folder, read_record, shipped_models
from engine.learning.ensemble.storage import load_ensemble
from engine.materials.crystal import Material
from engine.materials.sources.kinds import REFERENCE

MODELS = ("kappa-300K", "kappa-300K-rehearsal")


@pytest.fixture(scope="module")
def reference() -> list[Material]:
    """Reference compounds with a first-principles conductivity."""
    found = [m for part in open_sources([REFERENCE]) for m in part if isinstance(m, Material)]
    return [m for m in found if "kappa_300K_dft" in m.properties]


@pytest.mark.parametrize("name", MODELS)
def test_shipped_models_are_complete_and_small(name: str) -> None:
    """At most 20 MB; the card has sources with licences, labels and the command that makes it again."""
    folder = model_folder(name)
    assert folder is not None
    assert sum(path.stat().st_size for path in folder.iterdir()) < 20e6
    card, record = json.loads((folder / "card.json").read_text()), read_record(name)
    assert card["labels"] == record["metrics"]["labels"] == sum(card["by_file"].values())
    assert all(source["licence"] and source["citation"] for source in card["sources"])
    assert card["unit"] == "W/(m K)"
    assert record["metrics"]["model"]["mae"] < record["metrics"]["extra_trees"]["mae"]


def test_the_rehearsal_model_has_seen_no_reference_compound(reference: list[Material]) -> None:
    """It is for campaigns that are rehearsed on them; the other model has seen most."""
    hashes = {m.content_hash[:SEEN_DIGITS] for m in reference}
    assert not hashes & set(read_record("kappa-300K-rehearsal")["seen"])
    assert len(hashes & set(read_record("kappa-300K")["seen"])) > 200


def test_unseen_compounds_are_predicted(reference: list[Material], tmp_path: Path) -> None:
    """The rehearsal model ranks reference compounds that it has not seen, and its intervals hold most of them."""
    ensemble = load_ensemble("kappa-300K-rehearsal")
    featuriser = make_featuriser(ensemble.backbone, tmp_path, keep_graphs=False)
    some = reference[::4]
    featuriser.add({m.content_hash: m.crystal for m in some})
    mean, std = ensemble.predict(featuriser, [m.content_hash for m in some]).total(ensemble.calibration)
    values = np.log10([float(m.properties["kappa_300K_dft"]) for m in some])
    assert np.corrcoef(mean, values)[0, 1] > 0.6
    assert np.mean(np.abs(mean - values) < 1.645 * std) > 0.6


def test_a_model_stands_without_labels_of_some_crystals(reference: list[Material], tmp_path: Path) -> None:
    """Left-out crystals are predicted as unseen ones are, others as before."""
    ensemble = load_ensemble("kappa-300K")
    featuriser = make_featuriser(ensemble.backbone, tmp_path, keep_graphs=False)
    known = [m for m in reference if m.content_hash[:SEEN_DIGITS] in set(ensemble.seen)][:40]
    featuriser.add({m.content_hash: m.crystal for m in known})
    keys = [m.content_hash for m in known]
    left = ensemble.without(keys[:20], featuriser.embeddings(keys[:20]))
    assert len(left.seen) == len(ensemble.seen) - 20
    assert left.data_hash != ensemble.data_hash
    before, after = (e.members.process.predict(featuriser.embeddings(keys))[1] for e in (ensemble, left))
    assert (after[:20] > before[:20]).all()
    assert np.median(after[:20] / before[:20]) > np.median(after[20:] / before[20:])


def test_a_damaged_shipped_model_is_refused(tmp_path: Path) -> None:
    """The file is named."""
    folder = model_folder("kappa-300K")
    assert folder is not None
    copy = tmp_path / "engine" / "learning" / "models" / "kappa-300K"
    shutil.copytree(folder, copy)
    shutil.copytree(folder.parent.parent / "backbones", copy.parent.parent / "backbones")
    path = copy / "member-1.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelFileError, match=r"member-1\.safetensors"):
        load_ensemble(copy)


def test_a_name_of_no_model_names_the_shipped_ones(tmp_path: Path) -> None:
    """So that a typing mistake is seen."""
    with pytest.raises(ModelFileError, match="kappa-300K"):
        read_record(tmp_path / "kappa300")
    assert set(MODELS) <= set(shipped_models())
    assert model_folder("") is None
