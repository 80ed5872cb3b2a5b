"""Names of calculators, and the table of families."""

from __future__ import annotations

import pytest

from engine.exceptions import PotentialError
from engine.physics.calculator_specs import (
    families,
    is_calculator_spec,
    read_spec,
    short_name,
    with_options,
    with_python,
)
from engine.physics.potentials import load_potential

FAMILIES = {
    "mace", "orb", "sevennet", "mattersim", "grace", "upet", "nequip", "chgnet", "fairchem", "deepmd", "nequix",
    "matgl",
}  # fmt: skip


def test_every_family_says_what_it_needs():
    assert set(families()) == FAMILIES
    for name, family in families().items():
        assert family.package, name
        assert family.source, name
        assert family.precision, name
        for place in (*family.calculator, *family.loader):
            module, _, attribute = place.partition(":")
            assert module, name
            assert attribute, name
        options = {**family.options, **family.loader_options}
        assert not family.device or options[family.device] == "cpu", name
        assert options.get(family.precision, "float64") == "float64", name


def test_a_model_is_passed_on_in_the_librarys_own_way():
    mace = read_spec('mace:medium-mpa-0?{"device": "cuda"}')
    assert mace.recipe["calculator"] == ["mace.calculators:mace_mp"]
    assert (mace.recipe["model"], mace.recipe["model_option"]) == ("medium-mpa-0", "model")
    assert mace.recipe["options"] == {"device": "cuda", "default_dtype": "float64"}
    orb = read_spec(
        'orb:orb-v3-conservative-inf-omat[Si,Ge]?{"device": "cuda", "precision": "float32-highest", "a": 1}'
    )
    assert orb.covered() == {"Si", "Ge"}
    assert orb.recipe["options"] == {"device": "cuda", "a": 1}
    assert orb.recipe["loader_options"] == {"device": "cuda", "precision": "float32-highest", "compile": False}
    assert read_spec("nequip:/a/model:1.nequip.pth").recipe["model"] == "/a/model:1.nequip.pth"


def test_a_python_is_part_of_the_spec_and_not_of_the_name():
    spec = with_python(with_options("mace:medium", {"device": "cuda"}), "/env/bin/python")
    read = read_spec(spec)
    assert read.python == "/env/bin/python"
    assert read.name == short_name(spec) == 'mace:medium?{"device": "cuda"}'
    assert "potential_python" not in read.recipe["options"]
    assert with_python("mace:medium", "") == "mace:medium"
    assert with_python(spec, "/env/bin/python") == spec
    with pytest.raises(PotentialError, match="keep one"):
        with_python(spec, "/other/bin/python")


@pytest.mark.parametrize("spec", ["tersoff:Si", "rigid-ion:NaCl", "lennard-jones:Ar", "TensorNet-MatPES", "/a/b/c"])
def test_other_potentials_are_no_calculators(spec):
    assert not is_calculator_spec(spec)
    assert short_name(spec) == spec.rpartition("/")[2]
    for change in (lambda: with_python(spec, "/env/bin/python"), lambda: with_options(spec, {"a": 1})):
        with pytest.raises(PotentialError, match="leave"):
            change()


def test_an_unknown_family_is_answered_with_those_there_are():
    with pytest.raises(PotentialError) as raised:
        load_potential("maze:medium")
    assert all(name in str(raised.value) for name in FAMILIES)


def test_a_missing_package_is_named_with_the_way_out():
    with pytest.raises(PotentialError) as raised:
        load_potential("nequix:nequix-mp-1")
    assert "nequix" in str(raised.value)
    assert "potential_python" in str(raised.value)


def test_matgl_in_front_of_a_name_changes_nothing(shared):
    folder = shared("pretrained/TensorNet-MatPES-r2SCAN-v2025.1-PES")
    assert load_potential(f"matgl:{folder}").describe() == load_potential(folder).describe()
