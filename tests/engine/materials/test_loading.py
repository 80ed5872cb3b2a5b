"""From files to materials: everything in order, one process or several, and bad records cost only themselves."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from engine.materials.checks import Rejection, RejectionReason
from engine.materials.crystal import Material
from engine.materials.loading import Outcome, load
from tests.engine.materials.cases import rocksalt, shared


def flat(chunks: Iterator[list[Outcome]]) -> list[Outcome]:
    return [outcome for chunk in chunks for outcome in chunk]


def write_lines(path: Path, n: int, **broken: dict[str, object]) -> Path:
    """Write MgO crystals of growing lattice constant; ``m3={...}`` replaces fields of the third."""
    rows = []
    for k in range(n):
        crystal = rocksalt(4 + 0.01 * k)
        row = {
            "id": f"m{k}",
            "lattice": crystal.lattice.tolist(),
            "species": crystal.symbols,
            "frac_coords": crystal.frac_coords.tolist(),
            "properties": {"k": k},
        }
        rows.append(json.dumps(row | broken.get(f"m{k}", {})))
    path.write_text("\n".join(rows))
    return path


def test_the_aflow_cifs_go_in_whole() -> None:
    outcomes = flat(load(shared("aflow_cif_sample.tar.gz"), workers=1))
    assert len(outcomes) == 487
    assert not [o for o in outcomes if isinstance(o, Rejection)]
    assert len({o.content_hash for o in outcomes if isinstance(o, Material)}) == 487


@pytest.mark.slow
def test_the_agl_crystals_go_in_whole() -> None:
    outcomes = flat(load(shared("aflow_agl.jsonl.gz")))
    assert len(outcomes) == 3406
    assert not [o for o in outcomes if isinstance(o, Rejection)]
    assert len({o.content_hash for o in outcomes if isinstance(o, Material)}) == 3406


@pytest.mark.parametrize("name", ["ltc_l96.jsonl.gz", "ltc_hh143.jsonl.gz"])
def test_the_first_principles_sets_go_in_whole(name: str) -> None:
    outcomes = flat(load(shared(name), workers=1))
    assert outcomes
    assert all(isinstance(o, Material) and "kappa_300K_W_mK" in o.properties for o in outcomes)


def test_processes_give_what_one_process_gives(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", 70, m33={"lattice": np.zeros((3, 3)).tolist()})
    alone, together = (list(load(path, workers=n, chunk=16)) for n in (1, 2))
    assert [len(chunk) for chunk in together] == [16, 16, 16, 16, 6]
    for a, b in zip(flat(iter(alone)), flat(iter(together)), strict=True):
        if isinstance(a, Rejection):
            assert a == b
            assert a.record_id == "m33"
        else:
            assert isinstance(b, Material)
            assert (a.id, a.content_hash, a.bucket, a.properties) == (b.id, b.content_hash, b.bucket, b.properties)


def test_stopping_early_leaves_no_process_behind(tmp_path: Path) -> None:
    import multiprocessing

    chunks = load(write_lines(tmp_path / "x.jsonl", 60), workers=2, chunk=8)
    assert len(next(chunks)) == 8
    chunks.close()  # type: ignore[attr-defined]
    assert multiprocessing.active_children() == []


def test_every_bad_record_is_refused_with_its_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = write_lines(
        tmp_path / "x.jsonl",
        7,
        m1={"lattice": [[4, 0, 0], [0, 4, 0], [4, 4, 0]]},
        m2={"frac_coords": [[0, 0, 0], [0, 0, 0.01]]},
        m3={"species": ["Mg", "Zz"]},
        m4={"species": ["Mg", {"O": 0.9}]},
        m5={"lattice": [[float("nan")] * 3] * 3},
    )
    outcomes = flat(load([path], workers=1))
    assert [o.id for o in outcomes if isinstance(o, Material)] == ["m0", "m6"]
    assert [(o.record_id, o.reason) for o in outcomes if isinstance(o, Rejection)] == [
        ("m1", RejectionReason.ZERO_VOLUME),
        ("m2", RejectionReason.OVERLAPPING_ATOMS),
        ("m3", RejectionReason.UNKNOWN_ELEMENT),
        ("m4", RejectionReason.DISORDERED),
        ("m5", RejectionReason.NOT_FINITE),
    ]


def test_the_callers_limits_hold(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "x.jsonl", 2)
    assert {o.reason for o in flat(load(path, allowed_elements=["Mg"])) if isinstance(o, Rejection)} == {
        RejectionReason.UNKNOWN_ELEMENT
    }
    assert {o.reason for o in flat(load(path, max_sites=1)) if isinstance(o, Rejection)} == {
        RejectionReason.TOO_MANY_SITES
    }


def test_a_missing_path_and_an_empty_chunk_raise_at_once(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="at least 1"):
        load(tmp_path, chunk=0)


def test_reading_imports_neither_torch_nor_the_campaign() -> None:
    code = (
        "import sys, engine.materials.loading; "
        "print([m for m in ('torch', 'matgl', 'pandas', 'sklearn', 'campaigns', 'db') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
