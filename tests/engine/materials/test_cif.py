"""CIF: what the author meant, or a refusal; expected values are those of the compounds, worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.materials.checks import Rejection, RejectionReason
from engine.materials.cif_block import as_number, decimals
from engine.materials.crystal import Crystal
from engine.materials.formats import Format, RawRecord, Record, parse
from engine.materials.identity import identify

CUBIC = (4.0, 4.0, 4.0, 90.0, 90.0, 90.0)
HEXAGONAL = (2.71, 2.71, 4.40, 90.0, 90.0, 120.0)
WURTZITE = (
    "x,y,z",
    "-y,x-y,z",
    "-x+y,-x,z",
    "-x,-y,z+1/2",
    "y,-x+y,z+1/2",
    "x-y,x,z+1/2",
    "-y,-x,z",
    "-x+y,y,z",
    "x,x-y,z",
    "y,x,z+1/2",
    "x-y,-y,z+1/2",
    "-x,-x+y,z+1/2",
)
P1 = ("x,y,z",)
COLUMNS = ("label", "type_symbol", "fract_x", "fract_y", "fract_z")
SYMBOL = "_symmetry_space_group_name_H-M"
SAID = RejectionReason.CONTRADICTION
UNREADABLE = RejectionReason.UNREADABLE
MISSING = RejectionReason.MISSING_FIELD
DISORDERED = RejectionReason.DISORDERED


def text(cell=CUBIC, sites="", operations=P1, more="", columns=COLUMNS):
    names = ("length_a", "length_b", "length_c", "angle_alpha", "angle_beta", "angle_gamma")
    lines = ["data_x", *(f"_cell_{name} {value}" for name, value in zip(names, cell, strict=True)), more]
    if operations:
        lines += ["loop_", "_symmetry_equiv_pos_as_xyz", *(f"'{o}'" for o in operations)]
    lines += ["loop_", *(f"_atom_site_{column}" for column in columns), sites]
    return "\n".join(lines) + "\n"


def read(content: str | bytes) -> Record | Rejection:
    return parse(RawRecord("x", Format.CIF, content if isinstance(content, bytes) else content.encode(), "x.cif"))


def crystal(content: str | bytes) -> Crystal:
    record = read(content)
    assert isinstance(record, Record), record
    return record.crystal


def refusal(content: str | bytes) -> Rejection:
    rejection = read(content)
    assert isinstance(rejection, Rejection), rejection
    return rejection


ROCKSALT = "Na1 Na 0 0 0\nCl1 Cl .5 .5 .5"


# --- what is read ----------------------------------------------------------------------------------------------------

NAMED = [
    # symbol, number, cell, site, formula, sites, volume per atom, space group
    ("F d -3 m :2", 227, (5.46,) * 3 + (90,) * 3, "Ge1 Ge .125 .125 .125", "Ge", 8, 20.35, 227),
    ("F d -3 m :1", 227, (5.46,) * 3 + (90,) * 3, "Ge1 Ge 0 0 0", "Ge", 8, 20.35, 227),
    ("F d -3 m Z", 227, (5.46,) * 3 + (90,) * 3, "Ge1 Ge .125 .125 .125", "Ge", 8, 20.35, 227),
    ("F d -3 m S", 227, (5.46,) * 3 + (90,) * 3, "Ge1 Ge 0 0 0", "Ge", 8, 20.35, 227),
    ("R -3 m :R", 166, (4.7,) * 3 + (57.2,) * 3, "Sb1 Sb .234 .234 .234", "Sb", 2, 34.34, 166),
    ("R -3 m :H", 166, (4.5, 4.5, 11.8, 90, 90, 120), "Sb1 Sb 0 0 .234", "Sb", 6, 34.49, 166),
    ("R -3 m", 166, (4.5, 4.5, 11.8, 90, 90, 120), "Sb1 Sb 0 0 .234", "Sb", 6, 34.49, 166),
    ("R -3 m", 166, (4.7,) * 3 + (57.2,) * 3, "Sb1 Sb .234 .234 .234", "Sb", 2, 34.34, 166),
    ("F m -3 m", None, (5.64,) * 3 + (90,) * 3, ROCKSALT, "NaCl", 8, 22.43, 225),
    ("Fm3m", None, (5.64,) * 3 + (90,) * 3, ROCKSALT, "NaCl", 8, 22.43, 225),
    ("P b n m", 62, (4.9, 5.1, 7.1, 90, 90, 90), "Ga1 Ga 0.02 0.05 .25\nN1 N .5 .45 .25", "GaN", 8, 22.18, 62),
    ("P 21/n", 14, (5, 6, 7, 90, 100, 90), "K1 K .1 .2 .3\nF1 F .3 .1 .8", "KF", 8, 25.85, 14),
    ("P 1 21/c 1", 14, (5, 6, 7, 90, 100, 90), "K1 K .1 .2 .3\nF1 F .3 .1 .8", "KF", 8, 25.85, 14),
    ("", 225, (5.64,) * 3 + (90,) * 3, ROCKSALT, "NaCl", 8, 22.43, 225),
]


@pytest.mark.parametrize(("symbol", "number", "cell", "sites", "formula", "n", "volume", "group"), NAMED)
def test_a_named_setting_gives_its_crystal(symbol, number, cell, sites, formula, n, volume, group) -> None:
    words = f"_symmetry_space_group_name_H-M '{symbol}'\n" * bool(symbol)
    words += f"_symmetry_Int_Tables_number {number}" * bool(number)
    found = crystal(text(cell, sites, (), words))
    assert (found.formula, len(found)) == (formula, n)
    assert found.volume / n == pytest.approx(volume, rel=1e-3)
    assert identify("x", found).spacegroup == group


def test_a_hall_symbol_alone_is_enough() -> None:
    found = crystal(text((5.46,) * 3 + (90,) * 3, "Ge1 Ge .125 .125 .125", (), "_space_group_name_Hall '-F 4vw 2vw 3'"))
    assert len(found) == 8


@pytest.mark.parametrize(
    ("statement", "site", "n"),
    [
        ("_cell_formula_units_Z 8\n_chemical_formula_sum Ge", "Ge1 Ge .125 .125 .125", 8),
        ("_cell_formula_units_Z 8\n_chemical_formula_sum Ge", "Ge1 Ge 0 0 0", 8),
        ("_exptl_crystal_density_diffrn 5.93", "Ge1 Ge .125 .125 .125", 8),
        ("", "Ge1 Ge .125 .125 .125\n", None),
    ],
)
def test_what_the_file_says_of_its_content_picks_the_origin(statement: str, site: str, n: int | None) -> None:
    content = text((5.46,) * 3 + (90,) * 3, site, (), f"_symmetry_space_group_name_H-M 'F d -3 m'\n{statement}")
    if n is None:
        assert {"F d -3 m:1", "F d -3 m:2"} <= set(refusal(content).message.split("'"))
    else:
        assert len(crystal(content)) == n
        assert identify("x", crystal(content)).spacegroup == 227


@pytest.mark.parametrize(
    "sites",
    [
        "Be1 Be 0.3333 0.6666 0.0\nO1 O 0.3333 0.6666 0.378",
        "Be1 Be 0.333300 0.666600 0.0\nO1 O 0.333300 0.666600 0.378000",
        "Be1 Be 0.3333 0.6667 0.0\nO1 O 0.333333333 0.666666667 0.3781234567",
        "Be1 Be 0.333 0.667 0\nO1 O 0.333 0.667 0.378",
        "Be1 Be 0.33 0.67 0\nO1 O 0.33 0.67 0.38",
        "Be1 Be 0.33333(2) 0.66667(2) 0\nO1 O 0.33333 0.66667 0.3780(4)",
    ],
)
def test_rounded_sites_are_one_atom_each_by_their_own_digits(sites: str) -> None:
    record = read(text(HEXAGONAL, sites, WURTZITE, "_diffrn_radiation_wavelength 0.710730"))
    assert isinstance(record, Record)
    assert (record.crystal.formula, len(record.crystal)) == ("BeO", 4)
    assert identify("x", record.crystal).spacegroup == 186
    assert any("special positions" in note for note in record.notes)


def test_a_precise_position_near_a_special_one_stays_apart() -> None:
    """Two oxygen atoms .03 Angstrom off the axis would overlap: the crystal is refused, not silently idealised."""
    sites = "Be1 Be 0.3333333333 0.6666666667 0.0\nO1 O 0.3433333333 0.6666666667 0.378"
    found = crystal(text(HEXAGONAL, sites, WURTZITE))
    assert found.composition == {"Be": 2, "O": 12}


@pytest.mark.parametrize(
    "sites",
    [
        "Ni1 Ni 0 0 0\nNi2 Ni 1 0 0\nNi3 Ni 0 0 1\nAl1 Al .5 .5 .5",
        "Ni1 Ni 0 0 0\nNi2 Ni 1.00000 -1 0\nAl1 Al .5 .5 .5\nAl2 Al -.5 .5 1.5",
        "Ni1 Ni 0.0001 0 0\nNi2 Ni 0.9999 0 0\nAl1 Al .5 .5 .5",
    ],
)
def test_an_atom_listed_again_is_one(sites: str) -> None:
    record = read(text(sites=sites))
    assert isinstance(record, Record)
    assert record.crystal.composition == {"Ni": 1, "Al": 1}
    assert any("again" in note for note in record.notes)


def test_all_atoms_and_all_operations_are_no_more_than_the_crystal() -> None:
    operations = ["x,y,z", "-x,-y,-z"]
    found = crystal(text(sites="Li1 Li .1 .2 .3\nLi2 Li .9 .8 .7\nF1 F .5 .5 .5", operations=operations))
    assert found.composition == {"Li": 2, "F": 1}


DIALECTS = {
    "utf-8 minus": lambda t: t.replace(" -.3", " −.3"),
    "en dash": lambda t: t.replace(" -.3", " –.3"),
    "no-break space": lambda t: t.replace("O1 O", "O1\u00a0O"),
    "upper case": lambda t: t.replace("_cell_length", "_CELL_LENGTH").replace("_atom_site_", "_ATOM_SITE_"),
    "DDLm": lambda t: t.replace("_cell_", "_cell.").replace("_atom_site_", "_atom_site."),
    "unquoted operations": lambda t: t.replace("'x,y,z'", "x, y, z"),
    "unquoted symbol": lambda t: t.replace("data_x", "data_x\n_symmetry_space_group_name_H-M P 1"),
    "author in latin-1": lambda t: t.replace("data_x", "data_x\n_publ_author_name 'Müller'").encode("latin-1"),
    "text field with data_": lambda t: t.replace("data_x", "data_x\n_details\n;\ndata_y\nloop_\n_cell_length_a 9\n;"),
    "uncertainties": lambda t: t.replace("_cell_length_a 4.0", "_cell_length_a 4.0000(12)"),
    "occupancy": lambda t: t.replace("_atom_site_fract_z", "_atom_site_fract_z\n_atom_site_occupancy").replace(
        ".5\n", ".5 .\n"
    ),
}


@pytest.mark.parametrize("name", DIALECTS)
def test_dialects_are_one_crystal(name: str) -> None:
    plain = text(sites="Na1 Na 0 .5 .5\nO1 O -.3 .5 .5\n")
    reference = crystal(plain)
    changed = DIALECTS[name](plain)
    assert changed != plain
    found = crystal(changed)
    assert found.numbers.tolist() == reference.numbers.tolist()
    assert np.allclose(found.frac_coords, reference.frac_coords)
    assert np.allclose(found.lattice, reference.lattice)


def test_cif2_with_lists() -> None:
    content = (
        "#\\#CIF_2.0\ndata_x\n_cell.length_a 4.3\n_cell.length_b 4.3\n_cell.length_c 4.3\n_cell.angle_alpha 90\n"
        "_cell.angle_beta 90\n_cell.angle_gamma 90\n_space_group.name_H-M_alt 'P 1'\nloop_\n_atom_site.label\n"
        "_atom_site.type_symbol\n_atom_site.fract_xyz\nFe1 Fe [0 0 0]\nO1 O [0.5 0.5 0.5]\n"
    )
    assert crystal(content).composition == {"Fe": 1, "O": 1}


def test_mmcif_with_cartesian_coordinates_and_capitals() -> None:
    columns = ("group_PDB", "id", "type_symbol", "Cartn_x", "Cartn_y", "Cartn_z")
    content = text(sites="HETATM 1 NA 0 0 0\nHETATM 2 CL 2 2 2", columns=columns)
    found = crystal(content)
    assert found.composition == {"Na": 1, "Cl": 1}
    assert np.allclose(found.frac_coords[1], 0.5)


def test_magnetic_operations_and_centrings() -> None:
    content = text(sites="Mn1 Mn 0 0 0\nO1 O .1 .2 .3", operations=()).replace(
        "loop_\n_atom_site_label",
        "loop_\n_space_group_symop_magn_operation.xyz\n'x,y,z,+1'\n'-x,-y,-z,+1'\n"
        "loop_\n_space_group_symop_magn_centering.xyz\n'x,y,z,+1'\n'x+1/2,y+1/2,z+1/2,-1'\nloop_\n_atom_site_label",
    )
    assert crystal(content).composition == {"Mn": 2, "O": 4}


@pytest.mark.parametrize(
    ("written", "symbol"),
    [
        ("Fe3+", "Fe"),
        ("O2-", "O"),
        ("O-2", "O"),
        ("Na+", "Na"),
        ("Cu1+", "Cu"),
        ("Si0+", "Si"),
        ("Fe2.5+", "Fe"),
        ("V4", "V"),
    ],
)
def test_charges_are_no_part_of_an_element(written: str, symbol: str) -> None:
    assert symbol in crystal(text(sites=f"A1 {written} 0 0 0\nF1 F .5 .5 .5")).composition


@pytest.mark.parametrize(
    ("label", "symbol"), [("Mg", "Mg"), ("Fe1A", "Fe"), ("O(1)", "O"), ("Cl1_2", "Cl"), ("C1B", "C")]
)
def test_labels_without_types_begin_with_their_element(label: str, symbol: str) -> None:
    columns = ("label", "fract_x", "fract_y", "fract_z")
    assert symbol in crystal(text(sites=f"{label} 0 0 0\nF1 .5 .5 .5", columns=columns)).composition


@pytest.mark.parametrize(
    ("hydrogen", "isotopes"), [("H1 H", ""), ("D1 D", "2H"), ("T1 T", "3H"), ("H1 H 0 .5 0\nD1 D", "2H:0.5")]
)
def test_isotopes_are_told(hydrogen: str, isotopes: str) -> None:
    record = read(text(sites=f"Li1 Li 0 0 0\n{hydrogen} .5 .5 .5"))
    assert isinstance(record, Record)
    assert record.isotopes == isotopes
    assert set(record.crystal.composition) == {"Li", "H"}


# --- what is refused -------------------------------------------------------------------------------------------------

CELL_ONLY_P1 = "_symmetry_space_group_name_H-M 'P 1'"
REFUSED = {
    "hydrogen in the formula only": (
        text(sites="Ca1 Ca 0 0 0\nO1 O .5 .5 .5", more="_chemical_formula_sum 'Ca H2 O'"),
        "H2",
        SAID,
    ),
    "an element of the formula missing": (
        text(sites="Ti1 Ti 0 0 0", more="_chemical_formula_sum 'Ti1 O2'"),
        "O2",
        SAID,
    ),
    "Z": (text(sites=ROCKSALT, more="_chemical_formula_sum 'Cl Na'\n_cell_formula_units_Z 4"), "4", SAID),
    "volume": (text(sites=ROCKSALT, more="_cell_volume 179.4"), "179.4", SAID),
    "density": (text(sites=ROCKSALT, more="_exptl_crystal_density_diffrn 2.16"), "2.16", SAID),
    "multiplicity": (
        text(
            (5.46,) * 3 + (90,) * 3,
            "Ge1 Ge .125 .125 .125 8",
            (),
            f"{SYMBOL} 'F d -3 m :1'\n_space_group_IT_number 227",
            (*COLUMNS, "site_symmetry_multiplicity"),
        ),
        "8",
        SAID,
    ),
    "attached hydrogen": (
        text(sites="O1 O 0 0 0 1\nCa1 Ca .5 .5 .5 0", columns=(*COLUMNS, "attached_hydrogens")),
        "hydrogen",
        MISSING,
    ),
    "water without hydrogen": (text(sites="Wat1 O 0 0 0\nNa1 Na .5 .5 .5"), "hydrogen", MISSING),
    "disorder group": (
        text(sites="O1 O 0 0 0 1\nO2 O .5 .5 .5 2", columns=(*COLUMNS, "disorder_group")),
        "1, 2",
        DISORDERED,
    ),
    "disorder assembly": (
        text(sites="O1 O 0 0 0 A\nO2 O .5 .5 .5 .", columns=(*COLUMNS, "disorder_assembly")),
        "A",
        DISORDERED,
    ),
    "occupancy": (text(sites="O1 O 0 0 0 .5\nCa1 Ca .5 .5 .5 1", columns=(*COLUMNS, "occupancy")), "0.5", DISORDERED),
    "no coordinates": (text(sites="O1 O 0 0 0\nH1 H ? ? ?"), "H1", MISSING),
    "dummy": (
        text(sites="O1 O 0 0 0 d\nX1 O .5 .5 .5 dum", columns=(*COLUMNS, "calc_flag")),
        "X1",
        RejectionReason.UNKNOWN_ELEMENT,
    ),
    "nothing of the symmetry": (text(sites=ROCKSALT, operations=()), "symmetry", MISSING),
    "unknown symbol": (text(sites=ROCKSALT, operations=(), more=f"{SYMBOL} 'I 41/a m d Z'"), "symmetry", UNREADABLE),
    "setting without a number": (
        text((4.7,) * 3 + (57.2,) * 3, "Sb1 Sb .234 .234 .234", (), f"{SYMBOL} 'R -3 m :R'"),
        "symmetry",
        UNREADABLE,
    ),
    "symbol and number differ": (
        text(sites=ROCKSALT, operations=(), more=f"{SYMBOL} 'F m -3 m'\n_symmetry_Int_Tables_number 216"),
        "216",
        UNREADABLE,
    ),
    "Hall symbol and number differ": (
        text(sites=ROCKSALT, operations=(), more="_space_group_name_Hall '-F 4 2 3'\n_space_group_IT_number 216"),
        "216",
        UNREADABLE,
    ),
    "a number of several settings": (
        text((15, 16, 17, 90, 90, 90), "K1 K .1 .2 .3\nF1 F .3 .1 .8", (), "_space_group_IT_number 62"),
        "62",
        UNREADABLE,
    ),
    "symbol does not fit the cell": (
        text((4, 5, 6, 90, 90, 90), ROCKSALT, (), f"{SYMBOL} 'F m -3 m'"),
        "F m -3 m",
        UNREADABLE,
    ),
    "operations do not fit the cell": (text((4, 5, 6, 90, 90, 90), ROCKSALT, ("x,y,z", "y,x,z")), "cell", UNREADABLE),
    "operations without identity": (text(sites=ROCKSALT, operations=("-x,-y,-z",)), "group", UNREADABLE),
    "operations are no group": (text(sites=ROCKSALT, operations=("x,y,z", "y,z,x")), "group", UNREADABLE),
    "an operation that is none": (text(sites=ROCKSALT, operations=("x,y,z", "x,y,w")), "x,y,w", UNREADABLE),
    "identity alone beside a symbol": (text(sites=ROCKSALT, more=f"{SYMBOL} 'F m -3 m'"), "8", UNREADABLE),
    "modulated": (text(sites=ROCKSALT, more="_cell_modulation_dimension 1"), "modulated", DISORDERED),
    "macromolecule": (text(sites=ROCKSALT, more="_entity_poly.type 'polypeptide(L)'"), "macromolecule", UNREADABLE),
    "decimal comma": (text(sites="Na1 Na 0 0 0\nCl1 Cl 0,5 .5 .5"), "0,5", UNREADABLE),
    "an angle missing": (text(sites=ROCKSALT).replace("_cell_angle_gamma 90.0\n", ""), "_cell_angle_gamma", MISSING),
    "no atoms": ("data_x\n_cell_length_a 4\n", "coordinates", MISSING),
    "cut in a loop": (text(sites="Na1 Na 0 0 0\nCl1 Cl .5"), "loop", UNREADABLE),
}


@pytest.mark.parametrize("name", REFUSED)
def test_doubt_is_refused_by_name(name: str) -> None:
    content, word, reason = REFUSED[name]
    found = refusal(content)
    if name == "no atoms":
        found = refusal(text(sites="", columns=("label",)).replace("loop_\n_atom_site_label\n", ""))
    assert word in found.message
    assert found.reason is reason
    assert found.remedy


@pytest.mark.parametrize("kind", ["OH", "H2O", "Va", "?", "T1", "M1", "Wat", "X", "NH4", "Q", "A"])
@pytest.mark.parametrize("has_types", [True, False])
def test_what_is_no_element_is_refused(kind: str, has_types: bool) -> None:
    columns = COLUMNS if has_types else ("label", "fract_x", "fract_y", "fract_z")
    label = "A1 " * has_types
    other = "F1 " + "F " * has_types
    found = refusal(text(sites=f"{label}{kind} 0 0 0\n{other}.5 .5 .5", columns=columns))
    assert found.reason is RejectionReason.UNKNOWN_ELEMENT
    assert (kind if kind != "?" else "A1" if has_types else "?") in found.message


# --- the pieces ------------------------------------------------------------------------------------------------------


@given(st.floats(-1e3, 1e3).map(lambda x: round(x, 7) + 0.0), st.integers(1, 99), st.booleans())
def test_numbers_of_a_cif(value: float, uncertainty: int, plus: bool) -> None:
    written = f"{'+' if plus and value >= 0 else ''}{value:.7f}({uncertainty})"
    assert as_number(written, "x") == pytest.approx(value, abs=1e-12)
    assert as_number(written.replace("0.", ".", 1) if written.lstrip("+-").startswith("0.") else written, "x") == (
        pytest.approx(value, abs=1e-12)
    )


@pytest.mark.parametrize(
    ("written", "digits"),
    [("0.3333", 4), ("0.333300", 4), (".5", 1), ("0", 0), ("0.25(3)", 2), ("2.5e-3", 4), ("1.", 0)],
)
def test_digits_that_carry_something(written: str, digits: int) -> None:
    assert decimals(written) == digits


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib 2 announces version 3
def test_the_table_of_settings_is_that_of_spglib() -> None:
    """Every Hall symbol of spglib gives the operations that spglib gives it."""
    import gemmi
    import spglib

    for hall_number in range(1, 531, 7):
        kind = spglib.get_spacegroup_type(hall_number)
        symmetry = spglib.get_symmetry_from_database(hall_number)
        ours = {
            (*np.array(o.rot).ravel() // 24, *(np.array(o.tran) % 24)) for o in gemmi.symops_from_hall(kind.hall_symbol)
        }
        theirs = {
            (*r.ravel(), *(np.round(24 * t).astype(int) % 24))
            for r, t in zip(symmetry["rotations"], symmetry["translations"], strict=True)
        }
        assert ours == theirs, kind.hall_symbol


@pytest.mark.filterwarnings("ignore:Set OLD_ERROR_HANDLING:DeprecationWarning")  # spglib 2 announces version 3
@pytest.mark.parametrize("symprec", [None, 0.01])
@pytest.mark.parametrize("digits", [4, 8])
def test_what_pymatgen_writes_comes_back(symprec: float | None, digits: int) -> None:
    from pymatgen.io.cif import CifWriter

    from engine.materials.reference import reference_crystals

    for id_, original in list(reference_crystals().items())[::40]:
        writer = CifWriter(original.to_structure(), symprec=symprec, significant_figures=digits)
        found = crystal(str(writer))
        assert found.formula == original.formula, id_
        assert found.volume / len(found) == pytest.approx(original.volume / len(original), rel=1e-3), id_
        assert identify("a", found).spacegroup == identify("b", original).spacegroup, id_
