"""What a starting model may have seen of a pool that it is to be judged on."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.backtest.leaks import find_leaks, leaking_properties
from campaigns.backtest.protocol import LabelledPool
from campaigns.property_families import canonical, family
from engine.learning.backbones.backbone import load_backbone
from engine.materials.crystal import Material
from engine.materials.loading import load
from tests.campaigns.helpers import reference_records, write_lines

KAPPA = "kappa_300K"
AGL = "kappa_agl_300K_W_mK"


@pytest.fixture(scope="module")
def materials(records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> list[Material]:
    """Give real crystals with two more columns: one that ranks them as kappa does, and one that does not."""
    rng = np.random.default_rng(0)
    for record in records:
        value = record["properties"][KAPPA]
        record["properties"] |= {"hardness_GPa": 5 - value**0.5, "colour": float(rng.uniform())}
    path = write_lines(tmp_path_factory.mktemp("leaks") / "p.jsonl", records)
    return [m for part in load([path], workers=1) for m in part if isinstance(m, Material)]


@pytest.fixture(scope="module")
def records() -> list[dict[str, Any]]:
    """Give records that are not shared, because the crystals' fixture adds to them."""
    return reference_records(20)


@pytest.fixture(scope="module")
def pool(materials: list[Material]) -> LabelledPool:
    values = np.array([float(m.properties[KAPPA]) for m in materials])
    return LabelledPool(materials, values, np.log10(values))


def card(materials: list[Material], *names: str) -> dict[str, Any]:
    return {"seen": {name: sorted(m.content_hash[:12] for m in materials) for name in names}}


@pytest.mark.parametrize(
    "name",
    ["kappa_300K", "kappa_300K_W_mK", "Kappa(300 K) [W/(m K)]", "κ", "lattice_thermal_conductivity_300K", "LTC",
     "log10_kappa", "k_latt", "thermal conductivity"],
)  # fmt: skip
def test_one_property_in_many_spellings(name: str) -> None:
    assert canonical(name) == "kappa"


@given(st.text("kapW mK_()/[]θ03.lo", max_size=20) | st.sampled_from(["thermal parameter conductivity", "moduli_GPa"]))
def test_a_spelling_is_settled_at_once(name: str) -> None:
    assert canonical(canonical(name)) == canonical(name)
    assert canonical(f"bulk modulus {name}_GPa") == canonical(f"Bulk-Modulus {name}")


def test_families() -> None:
    agl = (AGL, "mlip_kappa_agl_300K_W_mK", "debye_temperature_K", "agl_debye", "gruneisen_parameter", "Grüneisen",
           "thermal_expansion_300K_1_K", "bulk_modulus_vrh_GPa", "ael_shear_modulus_vrh")  # fmt: skip
    assert {family(name) for name in agl} == {"AGL and AEL"}
    lattice = (KAPPA, "kappa_xx_300K", "kappa_lbte", "thermal_conductivity_1000K", "phonon_lifetime")
    assert {family(name) for name in lattice} == {"lattice thermal conductivity"}
    # other calculations, which a starting model may well have learned
    others = ("shear_modulus_scaled", "phonon_peak_scaled", "formation_energy_scaled", "band_gap_eV", "energy_per_atom")
    assert {family(name) for name in others} == {None}


def test_what_leaks(materials: list[Material], pool: LabelledPool) -> None:
    def found(*names: str, of: list[Material] = materials) -> list[tuple[str, int]]:
        return [(leak.seen, len(leak.ids)) for leak in find_leaks(pool, KAPPA, card(of, *names))]

    assert found("colour", "band_gap_eV", AGL) == []
    assert found("kappa", of=materials[3:7]) == [("kappa", 4)]
    assert found("kappa_xx_100K", "kappa") == [("kappa", 20), ("kappa_xx_100K", 20)]
    assert found("hardness") == [("hardness", 20)]
    other = Material("x", materials[0].crystal, "0" * 64, 1)
    assert found("kappa", of=[other]) == []
    words = [leak.describe() for leak in find_leaks(pool, KAPPA, card(materials, "kappa_100K_xx", "hardness"))]
    first = materials[0].id
    family_words = "which comes from the same calculation as kappa_300K (lattice thermal conductivity)"
    assert words[0] == f"kappa_100K_xx of 20 materials of this pool (e.g. {first}), {family_words}"
    assert "which ranks this pool as kappa_300K does (Spearman -1.00 with the file's hardness_GPa)" in words[1]
    assert find_leaks(pool, KAPPA, {}) == []
    assert leaking_properties(pool, KAPPA) == {KAPPA, "hardness_GPa"}


def test_shipped_backbones_on_agl(shared: Callable[[str], Path], tmp_path: Path) -> None:
    """The default one has seen nothing of AFLOW's, the other all of it; first principles stay fair for both."""

    def pool_of(name: str, field: str) -> LabelledPool:
        with gzip.open(shared(f"data/{name}.jsonl.gz"), "rt") as lines:
            records = [json.loads(line) for line in islice(lines, 60)]
        outcomes = [m for part in load([write_lines(tmp_path / f"{name}.jsonl", records)], workers=1) for m in part]
        found = [m for m in outcomes if isinstance(m, Material)]
        values = np.array([float(m.properties[field]) for m in found])
        return LabelledPool(found, values, np.log10(values))

    agl, l96 = pool_of("aflow_agl", AGL), pool_of("ltc_l96", "kappa_300K_W_mK")
    fair, knowing = (load_backbone(name).card for name in ("megnet-multiproperty", "megnet-multiproperty-agl"))
    assert find_leaks(agl, AGL, fair) == []
    seen = [leak.seen for leak in find_leaks(agl, AGL, knowing)]
    assert seen[0] == AGL
    assert {"debye_temperature_K", "bulk_modulus_vrh_GPa"} <= set(seen)
    assert find_leaks(l96, "kappa_300K_W_mK", knowing) == []
