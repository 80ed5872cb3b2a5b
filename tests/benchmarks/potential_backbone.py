"""A potential as a backbone beside the shipped one: speed, and errors of first-principles kappa of unseen formulas.

``python -m tests.benchmarks.potential_backbone FILE PYTHON SPEC CACHE [CRYSTALS]`` prints the table of
``engine/README.md``: a Gaussian process on a sample of the crystals of at most twelve atoms in FILE (fields as in
``ltc_phonix.jsonl.gz``), three splits by formula, with the potential SPEC in the environment of PYTHON. Embeddings are
kept in the folder CACHE.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from engine.materials.crystal import Material

PROPERTY = "kappa_300K_W_mK"
MAX_ATOMS = 12
CRYSTALS = 360
SEEDS = (0, 1, 2)
SHARE = 0.25


def sample(file: Path, size: int) -> list[Material]:
    """Labelled crystals drawn at random, the same in every run."""
    from engine.materials.checks import Rejection
    from engine.materials.loading import load

    found = {
        m.content_hash: m
        for part in load([file], max_sites=MAX_ATOMS, workers=1)
        for m in part
        if not isinstance(m, Rejection) and PROPERTY in m.properties
    }
    keys = sorted(found)
    chosen = np.random.default_rng(0).permutation(len(keys))[:size]
    return [found[keys[k]] for k in chosen]


def main(file: str, python: str, spec: str, cache: str, size: str = str(CRYSTALS)) -> None:
    """Embed, fit, and print a table."""
    from scipy.stats import spearmanr

    from engine.learning.backbones.backbone import SIDE_BY_SIDE
    from engine.learning.backbones.stack import make_featuriser
    from engine.learning.ensemble.storage import load_starts
    from engine.learning.heads.gp import GaussianProcessHead
    from engine.metrics.splits import SplitSettings, split_materials
    from engine.physics.calculator_specs import with_python_each

    materials = sample(Path(file), int(size))
    values = np.log([float(m.properties[PROPERTY]) for m in materials])
    keys = [m.content_hash for m in materials]
    first, other = SIDE_BY_SIDE
    stacks = [[first], [first, other], [spec], [first, spec], [first, other, spec]]
    print(f"{len(materials)} crystals, {np.mean([len(m.crystal) for m in materials]):.1f} atoms each")
    print("| columns | number | MAE in ln | Spearman |\n|---|--:|--:|--:|")
    for names in stacks:
        featuriser = make_featuriser(load_starts(with_python_each(names, python if spec in names else "")), cache)
        missing, began = featuriser.missing(keys), time.perf_counter()
        featuriser.add({m.content_hash: m.crystal for m in materials})
        if missing:
            seconds = time.perf_counter() - began
            print(f"{len(missing)} crystals by {' + '.join(names)}: {seconds:.0f} s", file=sys.stderr)
        embeddings, backbone = featuriser.embeddings(keys), featuriser.backbone
        rows = []
        for seed in SEEDS:
            split = split_materials(SplitSettings("formula", seed, SHARE), materials, values.tolist())
            train, test = split.training, split.test
            head = GaussianProcessHead.fit(
                embeddings[train], values[train], backbone.groups, seed, backbone.column_statistics
            )
            found, _ = head.predict(embeddings[test])
            rows.append((np.abs(found - values[test]).mean(), spearmanr(found, values[test])[0]))
        mae, rank = np.array(rows).T
        print(
            f"| {' + '.join(names)} | {backbone.embedding_size} | {mae.mean():.3f} ({mae.min():.3f} to "
            f"{mae.max():.3f}) | {rank.mean():.3f} ({rank.min():.3f} to {rank.max():.3f}) |",
            flush=True,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
