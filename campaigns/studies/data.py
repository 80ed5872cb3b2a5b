"""The data of the studies: labelled crystals by name, their values, and random splits of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from campaigns.exceptions import CampaignError
from engine.materials.crystal import Material

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.stack import AnyBackbone

MAX_SITES = 60
"""Crystals with more sites are left out, as in pre-training."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class StudySource:
    """A set of labelled crystals that a study reads."""

    file: str
    """Beginning of the file's name."""
    property: str
    scale: Literal["log10", "linear"]
    what: str


SOURCES = {
    "agl": StudySource("aflow_agl", "kappa_agl_300K_W_mK", "log10", "AGL conductivities of AFLOW"),
    "L96": StudySource("ltc_l96", "kappa_300K_W_mK", "log10", "first-principles conductivities, L96"),
    "HH143": StudySource("ltc_hh143", "kappa_300K_W_mK", "log10", "first-principles conductivities, half-Heuslers"),
    "phonix": StudySource("ltc_phonix", "kappa_300K_W_mK", "log10", "first-principles conductivities, Phonix"),
    "srme": StudySource(
        "ltc_ksrme103", "kappa_300K_W_mK", "log10", "first-principles conductivities of 103 binaries, kappa_SRME"
    ),
    "formation_energy": StudySource("tl_formation_energy", "formation_energy_scaled", "linear", "formation energies"),
    "band_gap": StudySource("tl_band_gap", "band_gap_scaled", "linear", "band gaps"),
    "shear_modulus": StudySource("tl_shear_modulus", "shear_modulus_scaled", "linear", "shear moduli"),
    "phonon_peak": StudySource("tl_phonon_peak", "phonon_peak_scaled", "linear", "highest phonon peaks"),
}
"""By role. These files are the user's own; no study runs without them."""


def read_sources(
    folder: Path, roles: Sequence[str], say: Say, max_sites: int | None = MAX_SITES
) -> dict[str, list[Material]]:
    """Crystals of at most ``max_sites`` sites with the property of each role, each crystal once, in file order.

    Raises
    ------
    CampaignError
        If a file is missing or holds no label; the message names all that are needed.
    """
    from engine.learning.pretraining.tasks import PropertyTask, learned_values, merge_copies
    from engine.materials.loading import load

    files = _find(folder, roles)
    found = {}
    for role in roles:
        source = SOURCES[role]
        outcomes = [o for part in load(files[role], workers=1, max_sites=max_sites) for o in part]
        materials = merge_copies(o for o in outcomes if isinstance(o, Material))
        values = learned_values(materials, [PropertyTask(source.property, source.scale)])[:, 0]
        found[role] = [m for m, value in zip(materials, values, strict=True) if np.isfinite(value)]
        if not found[role]:
            raise CampaignError(f"{files[role]} has no crystal with {source.property}; check the field's name")
        say(f"{files[role].name}: {len(found[role])} of {len(outcomes)} records usable")
    return found


def values_of(materials: Sequence[Material], source: StudySource) -> NDArray[np.float64]:
    """Labels (n) in learned units."""
    values = np.array([float(m.properties[source.property]) for m in materials])
    return np.log10(values) if source.scale == "log10" else values


def random_splits(n_rows: int, n_splits: int, test_fraction: float = 0.2) -> Iterator[tuple[NDArray[np.int64], ...]]:
    """Training and test rows of each split; split ``k`` is drawn with seed ``k``."""
    n_test = max(1, round(test_fraction * n_rows))
    for split in range(n_splits):
        order = np.random.default_rng(split).permutation(n_rows)
        yield order[n_test:], order[:n_test]


def check_unseen(backbone: AnyBackbone, materials: Sequence[Material], source: StudySource) -> None:
    """Refuse a backbone that has learned this property, whatever its spelling, of any of ``materials``."""
    from campaigns.property_families import canonical

    seen = {
        prefix
        for name, prefixes in backbone.card.get("seen", {}).items()
        if canonical(name) == canonical(source.property)
        for prefix in prefixes
    }
    known = [m.id for m in materials if m.content_hash[:12] in seen]
    if known:
        raise CampaignError(
            f"backbone {backbone.name} has seen {source.property} of {len(known)} crystals (e.g. {known[0]}), so that "
            "the study would be told its answers; give one that has not"
        )


def _find(folder: Path, roles: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise CampaignError(f"no folder {folder}; give the folder of the data with --data")
    names = sorted(path for path in folder.iterdir() if path.is_file())
    found = {role: next((p for p in names if p.name.startswith(SOURCES[role].file)), None) for role in roles}
    absent = [
        f"{SOURCES[role].file}.jsonl.gz ({SOURCES[role].what}, field {SOURCES[role].property})"
        for role, path in found.items()
        if path is None
    ]
    if absent:
        raise CampaignError(f"{folder} lacks {'; '.join(absent)}; put files whose names begin like these there")
    return {role: path for role, path in found.items() if path is not None}
