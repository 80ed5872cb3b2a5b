"""What a property's name says, and which names are mistyped."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from campaigns.exceptions import PropertyNameError
from campaigns.property_names import Property, named_temperature, probably_meant
from tests.campaigns.helpers import SHARED, done, refused

KNOWN = ["kappa_300K", "kappa_xx_300K", "band_gap", "dft", "agl", "mlip", "experiment"]


@pytest.mark.parametrize(
    ("name", "temperature"),
    [
        ("kappa_300K", 300.0), ("kappa_600K_W_mK", 600.0), ("kappa_min_600K_W_mK", 600.0), ("kappa_300K_dft", 300.0),
        ("kappa_1000.5K", 1000.5), ("kappa600K", 600.0), ("kappa_600_K", 600.0), ("kappa_T600K_xx", 600.0),
        ("kappa_6e2K", 600.0), ("kappa-77K", 77.0), ("kappa_600K_W_m-1K-1", 600.0), ("kappa_600K_W/(m K)", 600.0),
        ("kappa_300K_300K", 300.0), ("kappa", None), ("kappa_W_mK", None), ("kappa_2", None), ("kappa_KCl", None),
        ("heat_capacity_300K", 300.0), ("expansion_300K_600K", None), ("entropy_J_mol-1K-1", None), ("h_W_m2K", None),
        ("band_gap", None),
    ],
)  # fmt: skip
def test_temperatures(name: str, temperature: float | None) -> None:
    assert Property(name).temperature == temperature
    assert named_temperature(name) == (300.0 if temperature is None else temperature)


@pytest.mark.parametrize(
    ("name", "offending"),
    [
        ("kappa_300K_600K", "600K"), ("kappa_300K_to_600K_W_mK", "300K"), ("kappa_30OK", "30OK"),
        ("kappa_3lOK", "3lOK"), ("kappa_600k", "600k"), ("kappa_0K", "0K"), ("kappa_1,000K", "1,000K"),
    ],
)  # fmt: skip
def test_names_without_one_temperature_are_refused(name: str, offending: str, tmp_path: Path) -> None:
    with pytest.raises(PropertyNameError, match=offending):
        _ = Property(name).temperature
    assert offending in refused("init", tmp_path / "c", "--property", name)
    assert not (tmp_path / "c" / "campaign.toml").exists()


@pytest.mark.parametrize(
    ("name", "meant"), [("kapa_300K", "kappa_300K"), ("kapa_600K", "kappa_600K"), ("Kappa", "kappa")]
)
def test_a_campaign_for_a_mistyped_property_is_refused(name: str, meant: str, tmp_path: Path) -> None:
    assert f"close to {meant!r}" in refused("init", tmp_path / "c", "--property", name)
    assert not (tmp_path / "c").exists()
    done("init", tmp_path / "c", "--property", name, "--new-property")


@given(st.integers(1, 30000), st.sampled_from(["kappa_{}K", "kappa_{}K_W_mK", "kappa_min_{}K", "kappa{}K_dft"]))
def test_a_name_at_another_temperature_names_that(temperature: int, pattern: str) -> None:
    assert Property(pattern.format(300)).at(temperature) == pattern.format(f"{float(temperature):g}")
    if temperature < 1_000_000:
        assert named_temperature(pattern.format(temperature)) == temperature


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("kapa_300K", "kappa_300K"), ("Kappa_300K", "kappa_300K"), ("kappa_300k", "kappa_300K"),
        ("kapap_300K", "kappa_300K"), ("kappa300K", "kappa_300K"), ("kappa_300", "kappa_300K"),
        ("kapa_400K", "kappa_400K"), ("kappa_300C", "kappa_300K"), ("kappa_3O0K", "kappa_300K"),
        ("bandgap", "band_gap"), ("DFT", "dft"), ("dtf", "dft"), ("dftt", "dft"), ("Experiment", "experiment"),
        ("AGL", "agl"), ("kappa_300K", None), ("kappa_400K", None), ("kappa_1000.5K", None), ("kappa_xy_300K", None),
        ("band_gap_2", None), ("kappa_min_300K", None), ("kappa_300K_W_mK", None), ("kappa", None), ("dft", None),
        ("md", None), ("pbe", None), ("dft2", None),
    ],
)  # fmt: skip
def test_names_nearly_another(name: str, meant: str | None) -> None:
    assert probably_meant(name, KNOWN) == meant


def test_the_value_at_the_temperature_of_the_name_is_imported(tmp_path: Path) -> None:
    """A file with values at 300 and 600 K, in a campaign whose property ends in its unit."""
    path = SHARED / "cases" / "results" / "property_600K_W_mK" / "kappa-m191919.hdf5"
    if not path.is_file():
        pytest.skip(f"{path.name} of the shared cases is not there")
    import h5py
    import numpy as np

    with h5py.File(path) as handle:
        row = int(np.flatnonzero(np.isclose(handle["temperature"][:], 600))[0])
        expected = float(handle["kappa"][row][:3].mean())
    directory = tmp_path / "c"
    done("init", directory, "--cold", "--property", "kappa_600K_W_mK")
    done("ingest", directory, "builtin:reference")
    id_ = done("label", "import", directory, path, "--id", _first_id(directory), "--format", "json")
    assert id_.json["added"] == 1
    (label,) = done("label", "list", directory, "--format", "json").json
    assert (label["property"], label["temperature"]) == ("kappa_600K_W_mK", 600.0)
    assert label["value"] == pytest.approx(expected)


def _first_id(directory: Path) -> str:
    from campaigns.campaign import Campaign

    with Campaign.open(directory) as campaign:
        return campaign.store.material_index()[0].material_id
