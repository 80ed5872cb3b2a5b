"""Crystals in: added, linked, or refused with reason and remedy; nothing stops the rest."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from campaigns.campaign import Campaign
from campaigns.exceptions import CampaignError
from campaigns.intake import ingest_report, reading
from campaigns.intake.label_fields import LabelField
from tests.campaigns.helpers import done, kappascout, refused, write_lines


def salt(id_: str, a: float = 5.64, **changes: Any) -> dict[str, Any]:
    """Give rocksalt NaCl as a record, lattice constant in Angstrom."""
    half = [[0.0, a / 2, a / 2], [a / 2, 0.0, a / 2], [a / 2, a / 2, 0.0]]
    record = {"id": id_, "lattice": half, "species": ["Na", "Cl"], "frac_coords": [[0, 0, 0], [0.5, 0.5, 0.5]]}
    return record | {"properties": {}} | changes


def ingest(directory: Path, *arguments: object) -> dict[str, Any]:
    """Ingest, and give the report."""
    report: dict[str, Any] = done("ingest", directory, *arguments, "--workers", 1, "--format", "json").json
    assert report["read"] == report["added"] + report["duplicate"] + report["unchanged"] + report["rejected"]
    return report


def test_the_rest_goes_on_and_the_refused_are_kept(empty: Path, tmp_path: Path) -> None:
    """One folder with everything that can be wrong, and one good crystal."""
    folder = tmp_path / "in"
    folder.mkdir()
    good = salt("good")
    (folder / "good.json").write_text(json.dumps(good))
    (folder / "garbage.cif").write_text("data_x\n_cell_length_a nonsense\n")
    (folder / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(good).encode() * 50)[:60])
    (folder / "notes.docx").write_text("?")
    (folder / "disordered.cif").write_text(
        "data_d\n_cell_length_a 4\n_cell_length_b 4\n_cell_length_c 4\n_cell_angle_alpha 90\n_cell_angle_beta 90\n"
        "_cell_angle_gamma 90\n_symmetry_space_group_name_H-M 'P 1'\nloop_\n_atom_site_label\n_atom_site_type_symbol\n"
        "_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n_atom_site_occupancy\n"
        "Fe1 Fe 0 0 0 0.5\nNi1 Ni 0 0 0 0.5\n"
    )
    write_lines(
        folder / "rows.jsonl",
        [
            salt("flat", lattice=[[1, 0, 0], [2, 0, 0], [0, 0, 1]]),
            salt("touching", frac_coords=[[0, 0, 0], [0, 0, 0.01]]),
            salt("unknown", species=["Na", "Qq"]),
            salt("nan", lattice=[[float("nan"), 0, 0], [0, 4, 0], [0, 0, 4]]),
            {"id": "less", "species": ["Na"]},
        ],
    )
    report = ingest(empty, folder)
    assert (report["added"], report["rejected"]) == (1, 9)
    reasons = {r["record_id"]: r["reason"] for r in report["rejections"]}
    assert reasons["flat"] == "zero_volume"
    assert reasons["touching"] == "overlapping_atoms"
    assert reasons["unknown"] == "unknown_element"
    assert reasons["nan"] == "not_finite"
    assert reasons["less"] == "missing_field"
    assert reasons["disordered"] == "disordered"
    assert reasons["garbage"] == "unreadable"
    assert reasons["notes.docx"] == "unknown_format"
    assert sum(report["reasons"].values()) == 9
    for rejection in report["rejections"]:
        assert rejection["message"]
        assert rejection["remedy"]
        assert str(folder) in rejection["source"]

    kept = done("rejections", empty, "--format", "json").json
    assert [{k: v for k, v in r.items() if k != "at"} for r in kept] == [
        {k: v for k, v in r.items() if k != "at"} for r in report["rejections"]
    ]
    again = kappascout("ingest", empty, folder, "--workers", 1)
    assert again.code == 0
    assert "zero_volume" in again.out
    assert "read  added  duplicate  unchanged  rejected" in again.out
    assert len(done("rejections", empty, "--format", "json").json) == 9
    (row,) = csv.DictReader(io.StringIO(done("ingest", empty, folder, "--format", "csv").out))
    assert (row["unchanged"], row["rejected"]) == ("1", "9")


def test_copies_are_linked_and_polymorphs_kept(empty: Path, tmp_path: Path) -> None:
    """The same crystal in another cell or from another functional is one; another structure of one formula is not."""
    cube = 5.64
    corners = [[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]]
    conventional = salt("conventional") | {
        "lattice": [[cube, 0, 0], [0, cube, 0], [0, 0, cube]],
        "species": ["Na"] * 4 + ["Cl"] * 4,
        "frac_coords": [*corners, *([x + 0.5, y, z] for x, y, z in corners)],
    }
    cesium_chloride = salt("B2") | {"lattice": [[3.4, 0, 0], [0, 3.4, 0], [0, 0, 3.4]]}
    rows = [salt("first"), conventional, salt("relaxed", 5.70), cesium_chloride]
    told = done("ingest", empty, write_lines(tmp_path / "x.jsonl", rows), "--workers", 1)
    assert "duplicate: relaxed is the same crystal as first" in told.err
    assert "duplicate: conventional is the same crystal as first" in told.err
    assert done("status", empty, "--format", "json").json["materials"] == 2
    label = {"property": "kappa_300K", "value": 6.5, "unit": "W/(m K)", "fidelity": "dft", "id": "relaxed"}
    done("label", "import", empty, write_lines(tmp_path / "l.jsonl", [label]))
    assert done("label", "list", empty, "--format", "json").json[0]["material_id"] == "first"
    again = ingest(empty, tmp_path / "x.jsonl")
    assert (again["read"], again["unchanged"], again["duplicates"]) == (4, 4, [])


def test_one_id_with_two_structures(empty: Path, tmp_path: Path) -> None:
    """Within a file and between files; the first stays, with its label."""
    other = salt("x", species=["K", "Br"], properties={"k": 2.0})
    path = write_lines(tmp_path / "x.jsonl", [salt("x", properties={"k": 1.0}), other, salt("y", species=["K", "Cl"])])
    report = ingest(empty, path, "--label", "k=kappa_300K@agl")
    assert (report["added"], report["rejected"], report["labels"]) == (2, 1, 1)
    (rejection,) = report["rejections"]
    assert (rejection["record_id"], rejection["reason"]) == ("x", "id_conflict")
    assert "give this structure a new id" in rejection["remedy"]
    (label,) = done("label", "list", empty, "--format", "json").json
    assert (label["material_id"], label["value"]) == ("x", 1.0)
    later = kappascout("ingest", empty, write_lines(tmp_path / "later.jsonl", [other]), "--format", "json")
    report = later.json
    assert (later.code, report["read"], report["unchanged"], report["rejected"]) == (1, 1, 0, 1)
    assert "all records were rejected (1)" in later.err
    assert "known already with another crystal (material 'x'" in report["rejections"][0]["message"]
    assert done("status", empty, "--format", "json").json["materials"] == 2


@pytest.mark.parametrize("together", [True, False])
def test_one_id_with_nearly_the_same_crystal_is_unchanged(empty: Path, tmp_path: Path, together: bool) -> None:
    """In one file or another, in either order, now and when it comes again; also under an alias."""
    rows = [salt("x", 5.64), salt("alias", 5.66), salt("x", 5.70), salt("alias", 5.69), salt("x", 5.6401)]
    parts = [rows] if together else [[row] for row in rows]
    files = [write_lines(tmp_path / f"{n}.jsonl", part) for n, part in enumerate(parts)]
    first = [ingest(empty, file) for file in files]
    counts = [sum(report[name] for report in first) for name in ("added", "duplicate", "unchanged", "rejected")]
    assert counts == [1, 1, 3, 0]
    for file in reversed(files):
        assert ingest(empty, file)["unchanged"] == len(rows) // len(files)
    assert represented(empty, "alias", "x")[0] == 5.64
    other = write_lines(tmp_path / "other.jsonl", [salt("alias", 6.3, species=["K", "Cl"]), salt("x", 6.2)])
    refused_both = kappascout("ingest", empty, other, "--format", "json")
    assert refused_both.code == 1
    assert {r["record_id"]: r["reason"] for r in refused_both.json["rejections"]} == {
        "alias": "id_conflict", "x": "id_conflict",
    }  # fmt: skip


def test_one_compound_relaxed_twice_is_two_materials(empty: Path, tmp_path: Path) -> None:
    """Each with its label; said in the report and with the one that came later, whether they come together or not."""
    rows = [salt("first", 5.64, properties={"k": 6.5}), salt("other", 6.0, properties={"k": 3.0})]
    report = ingest(empty, write_lines(tmp_path / "a.jsonl", rows), "--label", "k=kappa_300K@dft")
    assert (report["added"], report["labels"], report["duplicate"]) == (2, 2, 0)
    assert "other and first" in report["notes"][0]
    later = ingest(empty, write_lines(tmp_path / "b.jsonl", [salt("third", 6.2), salt("apart", 7.0)]))
    assert later["added"] == 2
    assert later["notes"][0].startswith("1 material is the same compound as another")
    with Campaign.open(empty) as campaign:
        notes = {m.material_id: m.sources[0].note for m in campaign.store.materials()}
    assert (notes["first"], notes["apart"]) == ("", "")
    assert "same compound as first" in notes["other"]
    assert "27.0 A3 an atom, there 22.4" in notes["other"]
    assert "same compound as first" in notes["third"]
    assert ingest(empty, tmp_path / "a.jsonl", tmp_path / "b.jsonl")["notes"] == []


def hydride(name: str, a: float = 4.08) -> str:
    """Give LiH or LiD as CIF, every site listed."""
    corners = [(0, 0, 0), (0, 0.5, 0.5), (0.5, 0, 0.5), (0.5, 0.5, 0)]
    sites = [f"Li Li {x} {y} {z}" for x, y, z in corners]
    sites += [f"{name[2:]} {name[2:]} {x + 0.5} {y} {z}" for x, y, z in corners]
    lengths = "".join(f"_cell_length_{axis} {a}\n" for axis in "abc")
    angles = "".join(f"_cell_angle_{angle} 90\n" for angle in ("alpha", "beta", "gamma"))
    columns = "_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\n"
    rows = "\n".join(sites)
    return f"data_{name}\n{lengths}{angles}_symmetry_space_group_name_H-M 'P 1'\nloop_\n{columns}{rows}\n"


@pytest.mark.parametrize("order", [("LiH", "LiD"), ("LiD", "LiH")])
@pytest.mark.parametrize("together", [True, False])
def test_a_deuteride_is_a_material_of_its_own(
    empty: Path, tmp_path: Path, order: tuple[str, str], together: bool
) -> None:
    """Neither copy nor relaxation of the hydride, whichever comes first; with its own label and copies."""
    for name in order:
        (tmp_path / f"{name}.cif").write_text(hydride(name))
    paths = [tmp_path / f"{name}.cif" for name in order]
    for files in [paths] if together else [[path] for path in paths]:
        report = ingest(empty, *files)
        assert (report["added"], report["duplicate"]) == (len(files), 0)
        assert not any("same compound" in note for note in report["notes"])
    assert ingest(empty, *paths)["unchanged"] == 2
    (tmp_path / "near.cif").write_text(hydride("LiD", 4.10))
    assert ingest(empty, tmp_path / "near.cif")["duplicates"] == [["near", "LiD"]]
    label = {"property": "kappa_300K", "value": 9.9, "unit": "W/(m K)", "fidelity": "experiment", "id": "LiD"}
    done("label", "import", empty, write_lines(tmp_path / "l.jsonl", [label]))
    with Campaign.open(empty) as campaign:
        light, heavy = (campaign.store.material(id_) for id_ in ("LiH", "LiD"))
        (label_of,) = campaign.store.labels()
    assert label_of.material_id == heavy.material_id != light.material_id
    assert heavy.properties["isotopes"] == "2H"
    assert "isotopes" not in light.properties
    assert "deuterium" in heavy.sources[0].note
    assert set(heavy.structure) == {"lattice", "numbers", "frac_coords"}


def test_crystals_that_share_a_hash_by_chance_stay_apart(empty: Path, tmp_path: Path) -> None:
    """Their sums over neighbours nearly vanish, so that the hash is blind for what tells them apart."""
    from engine.materials.checks import Rejection
    from engine.materials.formats import Format, RawRecord, Record, parse
    from engine.materials.identity import identify

    triclinic = (
        "data_a\n_cell_length_a 2.449\n_cell_length_b 3.71\n_cell_length_c 4.1967\n_cell_angle_alpha 76.4426\n"
        "_cell_angle_beta 92.9423\n_cell_angle_gamma 103.7763\nloop_\n_space_group_symop_operation_xyz\n'x,y,z'\n"
        "'-x,-y,-z'\nloop_\n_atom_site_label\n_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n"
        "_atom_site_fract_z\nAl1 Al 0.6250 0.8316 0.7500\n"
    )
    orthorhombic = (
        "data_b\n_cell_length_a 4.1537\n_cell_length_b 5.2354\n_cell_length_c 6.6218\n_cell_angle_alpha 90\n"
        "_cell_angle_beta 90\n_cell_angle_gamma 90\nloop_\n_space_group_symop_operation_xyz\n'x,y,z'\n'-x,-y,z'\n"
        "'x,-y+1/2,-z'\n'-x,y+1/2,-z'\n'-x,-y,-z'\n'x,y,-z'\n'-x,y+1/2,z'\n'x,-y+1/2,z'\nloop_\n_atom_site_label\n"
        "_atom_site_type_symbol\n_atom_site_fract_x\n_atom_site_fract_y\n_atom_site_fract_z\nAl1 Al 0.25 0 0.833\n"
    )
    crystals = [parse(RawRecord("x", Format.CIF, text.encode(), "x")) for text in (triclinic, orthorhombic)]
    assert all(isinstance(c, Record) for c in crystals), [c for c in crystals if isinstance(c, Rejection)]
    hashes = {identify("x", c.crystal).content_hash for c in crystals if isinstance(c, Record)}
    (tmp_path / "a.cif").write_text(triclinic)
    (tmp_path / "b.cif").write_text(orthorhombic)
    report = ingest(empty, tmp_path / "a.cif", tmp_path / "b.cif")
    assert (report["added"], report["duplicate"]) == (2, 0)
    again = ingest(empty, tmp_path / "b.cif", tmp_path / "a.cif")
    assert (again["added"], again["unchanged"]) == (0, 2)
    with Campaign.open(empty) as campaign:
        assert sorted(key.spacegroup for key in campaign.store.material_index()) == [2, 47]
    assert len(hashes) == 1, "the example no longer shares a hash; find another"


def test_vacuum_is_said(empty: Path, tmp_path: Path) -> None:
    ingest(empty, write_lines(tmp_path / "x.jsonl", [salt("far", 30.0), salt("salt")]))
    with Campaign.open(empty) as campaign:
        notes = {m.material_id: m.sources[0].note for m in campaign.store.materials()}
    assert "vacuum of" in notes["far"]
    assert notes["salt"] == ""


def test_a_copy_of_a_refused_crystal_is_a_crystal_of_its_own(empty: Path, tmp_path: Path) -> None:
    """Otherwise it would be linked to the other structure that has the refused one's id."""
    ingest(empty, write_lines(tmp_path / "a.jsonl", [salt("x", species=["K", "Br"], a=6.6)]))
    report = ingest(empty, write_lines(tmp_path / "b.jsonl", [salt("x", 5.64), salt("z", 5.70)]))
    assert (report["added"], report["rejected"], report["duplicate"]) == (1, 1, 0)


def test_labels_from_the_records(empty: Path, tmp_path: Path) -> None:
    """Rows with an impossible value are refused by name, the rest is kept; a record without the field has no label."""
    values: list[Any] = [6.5, -1.0, 0, float("nan"), float("inf"), True, "6.5", None]
    salts = ["LiF", "LiCl", "NaF", "NaCl", "KF", "KCl", "RbF", "RbCl"]
    rows = [
        salt(
            name, 5.0 + 0.1 * i, species=[name[:-1] if name.endswith("F") else name[:-2], "F" if "F" in name else "Cl"]
        )
        | {"properties": {"k": value} if value is not None else {}}
        for i, (name, value) in enumerate(zip(salts, values, strict=True))
    ]
    path = write_lines(tmp_path / "x.jsonl", rows)
    report = ingest(empty, path, "--label", "k=kappa_300K@agl")
    assert (report["added"], report["labels"], report["rejected"]) == (2, 1, 6)
    assert {r["record_id"]: r["reason"] for r in report["rejections"]} == dict.fromkeys(salts[1:7], "bad_label")
    messages = {r["record_id"]: r["message"] for r in report["rejections"]}
    assert messages["LiCl"] == "k is -1.0, which is not above zero and has no logarithm"
    assert messages["NaCl"] == "k is nan, which is not finite"
    assert messages["RbF"] == "k is '6.5', which is not a number"
    report = ingest(empty, path)
    assert (report["added"], report["unchanged"], report["rejected"]) == (6, 2, 0)
    assert len(done("label", "list", empty, "--format", "json").json) == 1


def test_a_label_field_that_no_record_has(empty: Path, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", [salt("x", properties={"kappa": 6.5, "gap": 5.0})])
    message = refused("ingest", empty, path, "--label", "kapa=kappa_300K@agl")
    assert "no record has the property 'kapa' that --label asks for (there are: gap, kappa)" in message
    report = ingest(empty, path, "--label", "kappa=kappa_300K@agl", "--label", "gap=band_gap@dft:eV")
    assert (report["unchanged"], report["labels"]) == (1, 2)
    message = refused("ingest", empty, path, "--label", "gap=band_gap@agl:meV")
    assert "band_gap is stored in 'eV' here" in message


@pytest.mark.parametrize("text", ["kappa", "k=", "k=kappa", "k=kappa@", "=kappa@agl", "k=gap@dft", "k=@dft"])
def test_label_words_that_cannot_be_read(text: str) -> None:
    with pytest.raises(CampaignError, match="FIELD=PROPERTY@FIDELITY"):
        LabelField.parse(text)


def test_a_field_of_another_temperature_is_refused() -> None:
    with pytest.raises(CampaignError, match="kappa_600K"):
        LabelField.parse("kappa_600K_W_mK=kappa_300K@dft")
    assert LabelField.parse("kappa_600K_W_mK=kappa_600K@dft").property == "kappa_600K"


def test_label_words() -> None:
    assert LabelField.parse("a=kappa_300K@agl") == LabelField("a", "kappa_300K", "agl", "W/(m K)")
    assert LabelField.parse("b=gap@dft:eV") == LabelField("b", "gap", "dft", "eV")


def test_properties_that_are_not_finite_are_left_out_with_a_note(empty: Path, tmp_path: Path) -> None:
    gap = {"band_gap_eV": float("inf"), "energy": float("nan"), "e": 1.5}
    ingest(empty, write_lines(tmp_path / "x.jsonl", [salt("x", properties=gap)]))
    with Campaign.open(empty) as campaign:
        record = campaign.store.material("x")
    assert record.properties == {"e": 1.5}
    assert "property band_gap_eV is inf, left out; property energy is nan, left out" in record.sources[0].note


def test_a_source_that_is_not_there(empty: Path) -> None:
    assert "nowhere.cif does not exist; give a file, a folder or an archive" in refused("ingest", empty, "nowhere.cif")


@pytest.mark.parametrize("name", ["folder", "folder.zip", "table.csv"])
def test_nothing_read_is_said(empty: Path, tmp_path: Path, name: str) -> None:
    """An empty folder, an archive of a readme, a table of properties without crystals: exit 1 and a message."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "table.csv").write_text("id,gap\na,1.5\n")
    with zipfile.ZipFile(tmp_path / "folder.zip", "w") as archive:
        archive.writestr("__MACOSX/._x.cif", "x")
        archive.writestr("README.md", "x")
    message = refused("ingest", empty, tmp_path / name)
    assert "nothing was read" in message
    assert str(tmp_path / name) in message


def test_archives_and_several_sources(empty: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("one.json", json.dumps(salt("one")))
        archive.writestr("two.json", json.dumps(salt("two", species=["K", "Cl"], a=6.3)))
    report = ingest(
        empty, tmp_path / "a.zip", write_lines(tmp_path / "b.jsonl", [salt("three", a=6.6, species=["K", "Br"])])
    )
    assert report["added"] == 3


def test_the_built_in_reference(empty: Path) -> None:
    report = ingest(empty, "builtin:reference")
    assert report["added"] == report["read"] > 200


@pytest.mark.slow
def test_the_shared_cif_archive_goes_in_whole(empty: Path, shared: Callable[[str], Path]) -> None:
    report = ingest(empty, shared("data/aflow_cif_sample.tar.gz"))
    assert (report["added"], report["rejected"]) == (487, 0)


@pytest.mark.slow
def test_the_shared_agl_file_goes_in_whole_with_its_labels(empty: Path, shared: Callable[[str], Path]) -> None:
    report = done(
        "ingest", empty, shared("data/aflow_agl.jsonl.gz"), "--label", "kappa_agl_300K_W_mK=kappa_300K@agl",
        "--format", "json",
    ).json  # fmt: skip
    assert (report["added"], report["labels"], report["rejected"], report["duplicate"]) == (3406, 3406, 0, 0)


def represented(directory: Path, material_id: str, own: str = "first") -> tuple[float, list[str]]:
    """Lattice constant of what stands for a material, and all ids it is known under."""
    with Campaign.open(directory) as campaign:
        record = campaign.store.material(material_id)
        constant = (4 * campaign.crystal(material_id).volume) ** (1 / 3)
    assert record.material_id == own
    return round(constant, 3), [source.record_id for source in record.sources]


@pytest.mark.parametrize(
    ("first", "second", "third", "kept"),
    [
        ({}, {}, {}, 5.64),
        ({"energy_above_hull_eV": 0.02}, {"energy_above_hull_eV": 0.0}, {"energy_above_hull_eV": 0.01}, 5.70),
        ({"energy_above_hull_eV": 0.0}, {"energy_above_hull_eV": 0.0}, {"energy_above_hull_eV": -0.01}, 5.72),
        ({"energy_above_hull_eV": 0.01}, {"energy_above_hull_eV": 0.02}, {}, 5.64),
        ({"energy_per_atom_eV": -3.0}, {"energy_per_atom_eV": -4.0}, {}, 5.64),
        ({}, {"energy_above_hull_eV": 0.1}, {"energy_above_hull_eV": 0.05}, 5.72),
        ({}, {"energy_above_hull_eV": float("nan")}, {"energy_above_hull_eV": True}, 5.64),
    ],
)
@pytest.mark.parametrize("together", [True, False])
def test_which_copy_represents_a_crystal(
    empty: Path, tmp_path: Path, first: Any, second: Any, third: Any, kept: float, together: bool
) -> None:
    """Lowest energy above the hull, then more provenance, then first come; energies of another kind do not compare."""
    rows = [salt("first", 5.64), salt("second", 5.70), salt("third", 5.72)]
    for row, properties in zip(rows, (first, second, third), strict=True):
        row["properties"] = properties
    files = [rows] if together else [[row] for row in rows]
    for n, part in enumerate(files):
        ingest(empty, write_lines(tmp_path / f"{n}.jsonl", part))
    assert represented(empty, "third") == (kept, ["first", "second", "third"])
    again = ingest(empty, *tmp_path.glob("*.jsonl"))
    assert again["unchanged"] == 3
    assert represented(empty, "second") == (kept, ["first", "second", "third"])


def test_a_labelled_crystal_stays_as_it_is(empty: Path, tmp_path: Path) -> None:
    worse, better = ({"k": 6.5, "energy_above_hull_eV": energy} for energy in (0.1, 0.0))
    ingest(empty, write_lines(tmp_path / "a.jsonl", [salt("first", properties=worse)]), "--label", "k=kappa_300K@agl")
    ingest(empty, write_lines(tmp_path / "b.jsonl", [salt("second", 5.70, properties=better)]))
    assert represented(empty, "second") == (5.64, ["first", "second"])


def test_a_report_counts_everything_and_names_the_first(
    empty: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that its size does not grow with the source."""
    monkeypatch.setattr(ingest_report, "EXAMPLES", 3)
    monkeypatch.setattr(reading, "BATCH", 4)
    rows = [salt("first"), *(salt(f"copy-{n}") for n in range(9)), *(salt(f"bad-{n}", lattice=None) for n in range(7))]
    report = ingest(empty, write_lines(tmp_path / "x.jsonl", rows))
    assert (report["added"], report["duplicate"], report["rejected"]) == (1, 9, 7)
    assert report["duplicates"] == [[f"copy-{n}", "first"] for n in range(3)]
    assert [r["record_id"] for r in report["rejections"]] == ["bad-0", "bad-1", "bad-2"]
    assert report["reasons"] == {"missing_field": 7}
    assert len(done("rejections", empty, "--format", "json").json) == 7
