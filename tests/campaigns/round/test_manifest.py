"""What rounds keep is read with defaults for what older versions lacked, and written back as it was."""

from __future__ import annotations

import json

from campaigns.pool.labels import Moment
from campaigns.round.manifest import RoundFigures, RoundManifest
from db.records import RoundRecord
from db.states import RoundState

OLD = {
    "settings": {"campaign": {"property": "kappa_300K", "fidelity": "dft"}},
    "pool_sha256": "a",
    "labels": 12,
    "labels_up_to": 30,
    "backbone_sha256": "b",
    "batch": 4,
    "pending": ["NaCl"],
    "hit": 2.5,
    "of_another_version": {"kept": True},
}


def _record(manifest: dict[str, object], metrics: dict[str, object] | None = None) -> RoundRecord:
    return RoundRecord(1, RoundState.TRAINED, manifest, metrics_before=metrics)


def test_a_manifest_of_an_older_version() -> None:
    manifest = RoundManifest.of(_record(OLD))
    assert json.dumps(manifest.to_json(), sort_keys=True) == json.dumps(OLD, sort_keys=True)
    assert manifest.moment == Moment(30, 0)
    assert (manifest.target, manifest.fidelity) == ("kappa_300K", "dft")
    assert manifest.backbone_hashes == ["b"]
    assert (manifest.core_hours_left, manifest.failures_up_to, manifest.cheaper.pending) == (None, 0, [])
    assert RoundManifest.of(_record({})).fidelity is None


def test_what_is_not_given_is_not_written() -> None:
    written = RoundManifest(labels=3, settings={}).to_json()
    assert list(written.items()) == [("settings", {}), ("labels", 3)]


def test_figures_stand_beside_those_of_the_model() -> None:
    assert RoundFigures.of(_record(OLD)) == RoundFigures()
    metrics = {"model": {"mae": 0.1}, "half_width": 1.7}
    figures = RoundFigures.of(_record(OLD, metrics))
    assert figures.half_width == 1.7
    assert RoundFigures(best_found=None, refused="no").beside(metrics) == {
        "model": {"mae": 0.1}, "half_width": 1.7, "best_found": None, "refused": "no",
    }  # fmt: skip
