"""Peers buy what has not been bought, the same with the same seed, and better than blindly."""

from __future__ import annotations

import numpy as np
import pytest

from campaigns.backtest import peers
from campaigns.backtest.peers import PEERS, is_installed, package_version
from campaigns.exceptions import CampaignError
from engine.learning.backbones.backbone import load_backbone
from engine.materials.reference import reference_crystals, reference_labels

BATCH = 4


@pytest.fixture(scope="module")
def pool() -> tuple[np.ndarray, np.ndarray]:
    """Give the embedding of real crystals and log10 of their kappa."""
    crystals = reference_crystals()
    labels = reference_labels("dft")[:60]
    features = load_backbone().embed_crystals([crystals[label["id"]] for label in labels])
    return features.astype(np.float64), np.log10([label["value"] for label in labels])


# BayBE's own models, whose kernels of near copies need jitter
@pytest.mark.filterwarnings("ignore:A not p.d.:linear_operator.utils.warnings.NumericalWarning")
@pytest.mark.parametrize("name", PEERS)
def test_a_peer(name: str, pool: tuple[np.ndarray, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    if not is_installed(name):
        pytest.skip(f"{name} is not installed (extra `bench`)")
    monkeypatch.setattr(peers, "TREES", 50)
    features, target = pool
    features = np.vstack([features, features[:1]])  # a copy of a crystal
    target = np.append(target, target[0])

    def bought(seed: int) -> list[int]:
        rng = np.random.default_rng(seed)
        rows = rng.choice(len(features), 12, replace=False).tolist()
        peer = PEERS[name](features, seed, rng)
        for _ in range(2):
            chosen = peer.propose(rows, target[rows], BATCH)
            assert len(chosen) == BATCH
            rows += chosen
        assert len(set(rows)) == len(rows)
        assert set(rows) <= set(range(len(features)))
        return rows[12:]

    first = bought(1)
    assert bought(1) == first
    assert name == "random" or np.median(target[first]) < np.median(target)


def test_what_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda package: None)
    assert is_installed("gp")
    for name in ("baybe", "physbo"):
        with pytest.raises(CampaignError, match=r"pip install 'kappascout\[bench\]'"):
            package_version(name)
    assert set(package_version("gp")) == {"botorch"}
    assert package_version("random") == {}
