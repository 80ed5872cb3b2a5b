"""Imports point one way, heavy ones come late, and nothing loads or hides what it should not."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from campaigns.campaign import Campaign
from db.records import MaterialRecord, SourceRecord
from tests.conftest import REPOSITORY

HOUSES = ("engine", "db", "campaigns")
MODULES = sorted(path for house in HOUSES for path in (REPOSITORY / house).rglob("*.py"))
NAMES = [path.relative_to(REPOSITORY).as_posix() for path in MODULES]
FORBIDDEN = {
    "engine": ("db", "campaigns", "sqlalchemy", "alembic", "pickle"),
    "db": ("engine", "campaigns", "torch", "numpy", "matgl", "pandas", "pickle"),
    "campaigns": ("sqlalchemy", "pickle", "tests"),
}
HEAVY = ("torch", "matgl", "botorch", "gpytorch", "pandas", "plotly", "sqlalchemy", "sklearn", "scipy", "pymatgen")


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere in it, with what it takes from it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where they point"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_imports_point_one_way(path):
    house = path.relative_to(REPOSITORY).parts[0]
    forbidden = [name for name in imports(path) if name.split(".")[0] in FORBIDDEN[house]]
    assert not forbidden, f"{house} must not import {forbidden}"


def test_no_file_imports_itself_through_others():
    """Late imports and those for types alone count: whoever reads a file must be able to read downwards."""
    names = {path.relative_to(REPOSITORY).with_suffix("").as_posix().replace("/", "."): path for path in MODULES}
    names = {name.removesuffix(".__init__"): path for name, path in names.items()}
    below = {
        name: {module if module in names else module.rpartition(".")[0] for module in imports(path)} & names.keys()
        for name, path in names.items()
    }
    while ends := [name for name, targets in below.items() if not targets & (below.keys() - {name})]:
        for name in ends:
            del below[name]
    while tops := below.keys() - {target for name, targets in below.items() for target in targets - {name}}:
        for name in tops:
            del below[name]
    assert not below, f"a circle goes through some of {sorted(below)}"


def test_nothing_imports_the_command_line():
    importers = {
        name
        for name, path in zip(NAMES, MODULES, strict=True)
        if any(module.split(".")[:2] == ["campaigns", "cli"] for module in imports(path))
    }
    assert {name for name in importers if not name.startswith("campaigns/cli/")} == {"campaigns/__main__.py"}


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_nothing_is_unpickled_or_hushed(path):
    for name, call in calls(path):
        keywords = {keyword.arg: keyword.value for keyword in call.keywords}
        assert not name.endswith(("pickle.load", "pickle.loads", "read_pickle", "joblib.load")), name
        if name == "torch.load":
            assert ast.unparse(keywords["weights_only"]) == "True"
        if name.endswith("load_state_dict"):
            assert "strict" not in keywords or ast.unparse(keywords["strict"]) == "True"
        if name.endswith("numpy.load") or name == "np.load":
            assert "allow_pickle" not in keywords
        if name.endswith("filterwarnings") and ast.literal_eval(call.args[0]) == "ignore":
            assert "message" in keywords, "only a warning that is named may be passed over"
        assert not (name.endswith("simplefilter") and ast.literal_eval(call.args[0]) == "ignore")


@pytest.mark.parametrize("path", MODULES, ids=NAMES)
def test_no_exception_is_caught_unnamed(path):
    for node in ast.walk(ast.parse(path.read_text())):
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"bare except in line {node.lineno}"


def test_help_is_quick_to_import():
    program = (
        "import sys\n"
        "from campaigns.cli import main\n"
        "sys.argv = ['kappascout', '--help']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        f"print('LOADED', [m for m in {HEAVY!r} if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "label" in done.stdout
    assert "LOADED []" in done.stdout, done.stdout.splitlines()[-1]


STRUCTURE = {
    "lattice": [[4.0, 0.0, 0.0], [0.0, 4.0, 0.0], [0.0, 0.0, 4.0]],
    "numbers": [11],
    "frac_coords": [[0.0] * 3],
}
LATE = (*(name for name in HEAVY if name != "sqlalchemy"), "alembic", "ase", "spglib", "requests", "h5py", "pyarrow")
"""What no command needs that only reads or writes a few rows of the store."""
NUMPY = ("numpy",)
"""Needed to import labels, whose calculations have crystals, and not by what only reads the queue."""


def test_small_commands_load_nothing_heavy(tmp_path):
    """Facts, not times: what takes most of a second to load is loaded by what needs it alone."""
    campaign = tmp_path / "c"
    with Campaign.create(campaign) as made:
        made.store.add_materials(
            [MaterialRecord("m", "hash", "NaCl", "Cl-Na", 225, 2, "b", STRUCTURE, sources=(SourceRecord("m", "pool"),))]
        )
    labels = tmp_path / "labels.csv"
    labels.write_text("id,property,value,unit,fidelity\nm,kappa_300K,1.5,W/(m K),dft\n")
    program = (
        "import sys\n"
        "from campaigns.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        f"loaded = [m for m in {LATE + NUMPY!r} if m in sys.modules]\n"
        "loaded += [m for m in sys.modules if m.startswith('sqlalchemy.dialects.postgresql')]\n"
        "print('LOADED', loaded, file=sys.stderr)\n"
    )
    for command in (
        ("status", campaign),
        ("queue", "list", campaign),
        ("label", "import", campaign, labels),
        ("status", campaign),
    ):
        run = [sys.executable, "-c", program, *map(str, command)]
        done = subprocess.run(run, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert done.stderr.splitlines()[-1] == "LOADED []", command


def test_the_engine_is_importable_without_torch():
    """Reading, checking and hashing crystals must not wait for it."""
    program = (
        "import sys\n"
        "import engine.materials.loading, engine.graphs.store, engine.learning.features.composition\n"
        "print([m for m in ('torch', 'matgl', 'botorch') if m in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
