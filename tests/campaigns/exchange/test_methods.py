"""Conductivities of another method and doubtful values: refused, passed over, or taken by name and by force."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.campaigns.exchange.conftest import SILICON, mark_done, write_kappa
from tests.campaigns.exchange.test_importing import failure, import_, labels, outcome
from tests.campaigns.helpers import done, kappascout, queue, refused

h5py = pytest.importorskip("h5py", reason="phono3py is not installed")
pytest.importorskip("phono3py", reason="phono3py is not installed")

Exported = tuple[Path, Path]
ISOTROPIC = np.array([[7.0, 7.0, 7.0, 0.0, 0.0, 0.0]])
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "boundary": ({"boundary_mfp": 0.1}, "boundary_mfp 0.1"),
    "smearing": ({"sigma": 0.5}, "sigma 0.5 THz"),
    "Wigner": ({"extra_datasets": {"kappa_C": ISOTROPIC, "kappa_P_RTA": ISOTROPIC}}, "kappa_C"),
    "unknown": ({"extra_datasets": {"gamma_4ph": ISOTROPIC}}, "gamma_4ph"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_method_is_refused_or_a_label_of_its_own(exported: Exported, name: str) -> None:
    directory, folder = exported
    fields, words = OTHERS[name]
    write_kappa(folder, 7.0, **fields)
    mark_done(folder)
    state, message = outcome(directory, folder)
    assert (state, words in message) == ("refused", True)
    assert [e["state"] for e in queue(directory)] == ["exported"]
    for _ in range(2):
        assert import_(directory, folder, "--as-method", "mine")["entries"][0]["state"] == "done"
    (label,) = labels(directory, every=True)
    assert (label.method, label.value, label.source) == ("mine", 7.0, "round 1, exported")
    assert words in " ".join(label.provenance["computed_with"])


def test_a_method_of_its_own_supersedes_nothing(exported: Exported) -> None:
    """The exported method wins in its folder, whatever the dates; the other is named."""
    directory, folder = exported
    write_kappa(folder, 5.0)
    other = write_kappa(folder, 9.0, sigma=0.5)
    state, message = outcome(directory, folder)
    assert (state, other.name in message, "sigma 0.5 THz" in message) == ("done", True, True)
    import_(directory, folder, "--as-method", "smearing of half a THz")
    found = {label.method: (label.value, label.provenance.get("sigma")) for label in labels(directory)}
    assert found == {"phono3py RTA": (5.0, None), "smearing of half a THz": (9.0, 0.5)}


def test_several_other_methods_have_no_common_name(exported: Exported) -> None:
    directory, folder = exported
    for sigma in (0.1, 0.5):
        write_kappa(folder, 9.0, sigma=sigma)
    ran = kappascout("label", "import", directory, folder, "--as-method", "smearing")
    assert ran.code == 1
    assert "one by one" in ran.err
    assert not labels(directory)


@pytest.mark.parametrize("name", ["boundary", "smearing", "unknown"])
def test_a_file_by_name_tells_its_method_too(exported: Exported, name: str) -> None:
    directory, folder = exported
    fields, words = OTHERS[name]
    path = write_kappa(folder, 7.0, **fields)
    assert words in refused("label", "import", directory, path, "--id", SILICON)
    done("label", "import", directory, path, "--id", SILICON, "--as-method", "mine")
    assert [label.method for label in labels(directory)] == ["mine"]


def test_a_wigner_file_by_name_keeps_its_parts(exported: Exported) -> None:
    directory, folder = exported
    parts = {"kappa_intra": ISOTROPIC * 2, "kappa_inter": ISOTROPIC / 2}
    path = write_kappa(folder, 17.5, extra_datasets=parts)
    done("label", "import", directory, path, "--id", SILICON)
    (label,) = labels(directory)
    assert (label.value, label.method) == (17.5, "phono3py RTA, coherence")
    assert {name: part["mean"] for name, part in label.provenance["parts"].items()} == {
        "kappa_intra": 14.0,
        "kappa_inter": 3.5,
    }
    assert label.provenance["parts"]["kappa_inter"]["tensor"]["zz"] == 3.5


@pytest.mark.parametrize("name", ["phono3py RTA", "Phono3py LBTE", " mine"])
def test_names_that_would_supersede(exported: Exported, name: str) -> None:
    directory, folder = exported
    write_kappa(folder, 7.0)
    assert name in refused("label", "import", directory, folder, "--as-method", name)


def test_options_for_results_without_results(exported: Exported, tmp_path: Path) -> None:
    directory, _ = exported
    table = tmp_path / "labels.csv"
    table.write_text(f"id,kappa_300K\n{SILICON},140\n")
    assert "--force" in refused("label", "import", directory, table, "--force")


FREQUENCIES = np.zeros((2, 6))
DOUBTFUL: dict[str, tuple[tuple[float, ...], dict[str, Any], str]] = {
    "fifteen bands": ((5.0,), {"frequency": np.zeros((2, 15))}, "15 bands"),
    "symmetry": ((5.0, 5.0, 7.0), {}, "symmetry"),
    "negative component": ((-100.0, 200.0, 200.0), {}, "-100"),
    "enormous": ((1e12,), {}, "1000000000000.0"),
}


@pytest.mark.parametrize("by_id", [False, True])
@pytest.mark.parametrize("name", DOUBTFUL)
def test_values_of_no_such_crystal(exported: Exported, name: str, by_id: bool) -> None:
    """Refused by folder and by id alike, unless forced; the label says so."""
    directory, folder = exported
    values, fields, words = DOUBTFUL[name]
    path = write_kappa(folder, *values, **fields)
    given = [path, "--id", SILICON] if by_id else [folder]
    ran = kappascout("label", "import", directory, *given)
    assert (ran.code != 0, words in ran.err, "--force" in ran.err) == (True, True, True)
    assert not labels(directory)
    assert [e["state"] for e in queue(directory)] == ["exported"]
    done("label", "import", directory, *given, "--force")
    (label,) = labels(directory)
    assert words in " ".join(label.provenance["forced"])
    assert [e["state"] for e in queue(directory)] == ["done"]


@pytest.mark.parametrize("by_id", [False, True])
def test_imaginary_modes_by_force(exported: Exported, by_id: bool) -> None:
    directory, folder = exported
    path = write_kappa(folder, 140.0, frequency=FREQUENCIES - [[3.0]])
    given = [path, "--id", SILICON] if by_id else [folder]
    if by_id:
        assert "-3.00 THz" in refused("label", "import", directory, *given)
    else:
        assert outcome(directory, folder)[0] == "failed"
        assert failure(directory).reason == "imaginary_modes"
    assert not labels(directory)
    done("label", "import", directory, *given, "--force")
    (label,) = labels(directory)
    assert label.provenance["lowest_frequency_THz"] == -3.0
    assert len(label.provenance["forced"]) == 1


@pytest.mark.parametrize("values", [(np.nan, 1.0, 1.0), (0.0,)])
def test_what_has_no_value_cannot_be_forced(exported: Exported, values: tuple[float, ...]) -> None:
    directory, folder = exported
    path = write_kappa(folder, *values)
    refused("label", "import", directory, path, "--id", SILICON, "--force")
    assert import_(directory, folder, "--force")["entries"][0]["state"] == "failed"
    assert not labels(directory)


def test_an_unusual_value_is_taken_and_said(exported: Exported) -> None:
    directory, folder = exported
    path = write_kappa(folder, 0.004)
    state, message = outcome(directory, folder)
    assert (state, "0.004" in message) == ("done", True)
    assert "0.004" in done("label", "import", directory, path, "--id", SILICON).err


def test_no_numbers_among_frequencies_end_one_folder(exported: Exported, tmp_path: Path) -> None:
    directory, folder = exported
    good = Path(shutil.copytree(folder, tmp_path / "good" / folder.name))
    write_kappa(good, 5.0)
    write_kappa(folder, 5.0, frequency=np.where(np.eye(2, 6), np.nan, 1.0))
    report = import_(directory, good, folder)
    assert sorted(e["state"] for e in report["entries"]) == ["done", "failed"]
    assert [label.value for label in labels(directory)] == [5.0]


def test_results_of_a_conductivity_in_another_campaign(exported: Exported, tmp_path: Path) -> None:
    _, folder = exported
    path = write_kappa(folder, 5.0)
    other = tmp_path / "gaps"
    done("init", other, "--cold", "--goal", "max", "--property", "band_gap_eV")
    shutil.copy(tmp_path / "pool.jsonl", tmp_path / "again.jsonl")
    done("ingest", other, tmp_path / "again.jsonl")
    assert "band_gap_eV" in refused("label", "import", other, path, "--id", SILICON)
    ran = kappascout("label", "import", other, folder)
    assert (ran.code, "band_gap_eV" in ran.err) == (1, True)
    assert not labels(other)
