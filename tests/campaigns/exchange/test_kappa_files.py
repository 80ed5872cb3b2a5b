"""What one kappa-*.hdf5 says of its method and its modes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from campaigns.exchange.kappa_files import differences, read_kappa
from campaigns.exchange.manifest import Phonons

h5py = pytest.importorskip("h5py", reason="phono3py is not installed")
pytest.importorskip("phono3py", reason="phono3py is not installed")

ONE = np.array([[2.0, 2.0, 2.0, 0.0, 0.0, 0.0]])
EXPORTED = Phonons(
    supercell=((2, 0, 0), (0, 2, 0), (0, 0, 2)),
    fc2_supercell=None,
    displacements="random",
    snapshots=4,
    fc2_snapshots=None,
    seed=1,
    amplitude=0.03,
    pair_cutoff=None,
    mesh=(5, 5, 5),
    solver="rta",
    isotope=False,
    temperatures=(300.0,),
    imaginary_tolerance=0.1,
)


def write(folder: Path, extra: dict[str, Any] | None = None, **fields: Any) -> Path:
    from phono3py.file_IO import write_kappa_to_hdf5

    given = {"temperature": np.array([300.0]), "mesh": [5, 5, 5], "kappa": ONE, "extra_datasets": extra} | fields
    with contextlib.chdir(folder):
        return folder / write_kappa_to_hdf5(**given, verbose=False)


PLAIN: dict[str, dict[str, Any]] = {
    "bare": {},
    "boundary of a metre": {"boundary_mfp": 1e6},
    "more temperatures": {"temperature": np.array([300.0, 600.0]), "kappa": np.repeat(ONE, 2, axis=0)},
    "normal and umklapp": {"gamma_N": ONE, "gamma_U": ONE, "gv_by_gv": ONE, "kappa_unit_conversion": 6.3},
    "whole grid": {"grid_point": np.arange(4), "weight": np.arange(4), "qpoint": np.zeros((4, 3))},
    "a stranger": {"extra": {"comment": ONE}},
}


@pytest.mark.parametrize("name", PLAIN)
def test_what_changes_no_method(tmp_path: Path, name: str) -> None:
    kappa = read_kappa(write(tmp_path, **PLAIN[name]))
    assert not differences(kappa, EXPORTED)
    assert not differences(kappa, None)
    assert kappa.method == "phono3py RTA"
    assert kappa.strangers == (("comment",) if name == "a stranger" else ())


OTHER: dict[str, tuple[dict[str, Any], str, bool]] = {
    "boundary": ({"boundary_mfp": 0.1}, "boundary_mfp 0.1 micrometre", True),
    "smearing": ({"sigma": 0.5}, "sigma 0.5 THz", True),
    "cut smearing": ({"sigma": 0.5, "sigma_cutoff": 3.0}, "sigma_cutoff_width 3", True),
    "isotopes": ({"gamma_isotope": ONE}, "isotope True instead of False", False),
    "direct solution": ({"kappa_RTA": ONE}, "solver LBTE instead of RTA", False),
    "mesh": ({"mesh": [7, 7, 7]}, "mesh (7, 7, 7) instead of (5, 5, 5)", False),
    "temperature": ({"temperature": np.array([295.0])}, "no value at 300 K (it has 295)", False),
    "Wigner": ({"extra": {"kappa_C": ONE, "kappa_P_RTA": ONE}}, "kappa_P_RTA, kappa_C", False),
    "inter-band": ({"extra": {"kappa_intra": ONE, "kappa_inter": ONE}}, "kappa_inter", False),
    "averaged": ({"averaged_pp_interaction": ONE}, "ave_pp", True),
    "electrons": ({"gamma_elph": ONE}, "gamma_elph", True),
    "generalised": ({"extra": {"grid_matrix": np.eye(3, dtype=int)}}, "grid_matrix", True),
    "four phonons": ({"extra": {"gamma_4ph": ONE}}, "gamma_4ph", True),
    "a conductivity": ({"extra": {"kappa_electronic": ONE}}, "kappa_electronic", True),
}
"""Datasets, what is said, and whether it is said too where no settings were exported."""


@pytest.mark.parametrize("name", OTHER)
def test_what_is_another_method(tmp_path: Path, name: str) -> None:
    fields, words, always = OTHER[name]
    kappa = read_kappa(write(tmp_path, **fields))
    assert words in ", ".join(differences(kappa, EXPORTED))
    assert bool(differences(kappa, None)) is always


def test_what_was_exported_is_no_difference(tmp_path: Path) -> None:
    asked = EXPORTED.model_copy(update={"solver": "lbte", "isotope": True})
    kappa = read_kappa(write(tmp_path, kappa_RTA=ONE, gamma_isotope=ONE, mode_kappa_RTA=ONE, f_vector=ONE))
    assert not differences(kappa, asked)
    assert len(differences(read_kappa(write(tmp_path)), asked)) == 2


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("kappa-m191919-s0.5.hdf5", {"sigma": 0.5}),
        ("kappa-m191919-s0.1-sd3.hdf5", {"sigma": 0.1, "sigma_cutoff_width": 3.0}),
        ("kappa-m191919-s1.mine.hdf5", {"sigma": 1.0}),
        ("kappa-m191919.test-s1.hdf5", {}),
        ("kappa-m191919.hdf5", {}),
    ],
)
def test_names_of_files_tell_smearing(tmp_path: Path, name: str, numbers: dict[str, float]) -> None:
    path = write(tmp_path).rename(tmp_path / name)
    assert read_kappa(path).numbers == numbers


def test_wigner_files_are_of_a_method_of_their_own(tmp_path: Path) -> None:
    kappa = read_kappa(write(tmp_path, {"kappa_intra": ONE / 2, "kappa_inter": ONE / 2}))
    assert kappa.method == "phono3py RTA, coherence"
    assert {name: part[0, 0] for name, part in kappa.parts.items()} == {"kappa_intra": 1.0, "kappa_inter": 1.0}


def test_conductivity_over_mean_free_path(tmp_path: Path) -> None:
    """Two modes of 1 and 100 nm, with a quarter and three quarters of it; one that nothing scatters."""
    velocity = np.zeros((1, 3, 3))
    velocity[0, :, 1] = 4 * np.pi * 10  # THz Angstrom
    modes = np.zeros((2, 1, 3, 6))
    modes[1, 0, :2, :3] = np.array([1.0, 3.0])[:, None]
    gamma = np.array([[[1.0, 1.0, 1.0]], [[1.0, 0.01, 0.0]]])
    given = {"temperature": np.array([100.0, 300.0]), "kappa": np.repeat(ONE, 2, axis=0)}
    path = write(tmp_path, group_velocity=velocity, mode_kappa=modes, gamma=gamma, **given)
    assert not read_kappa(path).accumulated
    tables = read_kappa(path, [300.0, 450.0]).accumulated
    assert list(tables) == [300.0]
    lengths, shares = tables[300.0]["mean_free_path_nm"], tables[300.0]["share"]
    assert (len(lengths), lengths[0], lengths[-1]) == (20, 1.0, 100.0)
    assert shares == [0.25] * 19 + [1.0]


@pytest.mark.parametrize(
    "gamma", [np.zeros((1, 1, 3)), np.ones((1, 1, 2)), np.full((1, 1, 3), np.nan)], ids=["nothing", "shape", "nan"]
)
def test_modes_that_give_no_table(tmp_path: Path, gamma: Any) -> None:
    path = write(tmp_path, group_velocity=np.ones((1, 3, 3)), mode_kappa=np.ones((1, 1, 3, 6)), gamma=gamma)
    assert not read_kappa(path, [300.0]).accumulated
