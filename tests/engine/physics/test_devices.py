"""Devices: names, those that are not there, and what a process on one sees."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

from engine.exceptions import PotentialError
from engine.materials.crystal import Crystal
from engine.physics.calculator_specs import with_device
from engine.physics.devices import children_on, kind_of, require_devices
from engine.physics.outcome import Calculated, Failed
from engine.physics.potentials import load_potential
from engine.physics.workers import calculate_all
from tests.engine.physics.calculations import by_environment

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


def cube(length: float) -> Crystal:
    return Crystal.from_symbols(np.eye(3) * length, ["Ar"], [[0, 0, 0]])


@pytest.mark.parametrize(("device", "kind"), [("", ""), ("cpu", "cpu"), ("cuda", "cuda"), ("cuda:3", "cuda")])
def test_kinds(device: str, kind: str) -> None:
    assert kind_of(device) == kind


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "cpu:0", "cuda:0,cuda:1", " cpu"])
def test_other_names_are_refused(device: str) -> None:
    with pytest.raises(PotentialError, match="there is no device"):
        kind_of(device)


def test_devices_are_checked() -> None:
    assert require_devices([]) == ""
    assert require_devices(["cpu", "cpu"]) == "cpu"
    with pytest.raises(PotentialError, match="several kinds"):
        require_devices(["cpu", "cuda:0"])


@WITHOUT_GPU
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(PotentialError, match=f"no device {device}: of CUDA devices torch finds none"):
        require_devices([device])


@pytest.mark.parametrize(
    ("visible", "device", "seen"),
    [(None, "cuda:1", "1"), ("4,7", "cuda:1", "7"), ("4,7", "cpu", "4,7"), ("4,7", "cuda", "4,7"), (None, "cpu", None)],
)
def test_a_child_sees_its_gpu_alone(
    visible: str | None, device: str, seen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with children_on(device):
        assert os.environ.get("CUDA_VISIBLE_DEVICES") == seen
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == visible


def test_the_device_is_an_option_of_a_calculator() -> None:
    assert with_device("a.b:C", "") == "a.b:C"
    assert with_device("a.b:C", "cpu") == 'a.b:C?{"device": "cpu"}'
    assert with_device('mace:small?{"default_dtype": "float32"}', "cuda") == (
        'mace:small?{"default_dtype": "float32", "device": "cuda"}'
    )
    assert with_device('mace:small?{"device": "cuda"}', "cuda") == 'mace:small?{"device": "cuda"}'
    with pytest.raises(PotentialError, match="'cpu' by its option device, and on 'cuda'"):
        with_device('mace:small?{"device": "cpu"}', "cuda")


def test_classical_potentials_run_on_the_cpu() -> None:
    assert load_potential("lennard-jones:Ar", device="cpu").name == "lennard-jones:Ar"
    with pytest.raises(PotentialError, match="runs on a CPU"):
        load_potential("lennard-jones:Ar", device="cuda")


def test_one_process_a_device() -> None:
    """Two work at once, and one in place of a process that died."""
    lengths = [5.0, 1.5, 6.0, 7.0, 1.6, 8.0]
    crystals = [(str(a), cube(a)) for a in lengths]
    found = {
        f.key: f.outcome for f in calculate_all(crystals, by_environment, "lennard-jones:Ar", devices=["cpu", "cpu"])
    }
    done = [outcome for outcome in found.values() if isinstance(outcome, Calculated)]
    assert len(done) == 4
    assert sum(isinstance(outcome, Failed) for outcome in found.values()) == 2
    assert 1 < len({outcome.provenance["process"] for outcome in done}) <= 4


def test_processes_on_gpus_see_one_each() -> None:
    """A potential that no process of a device without GPUs can load is said before anything is calculated."""
    with pytest.raises(PotentialError, match="runs on a CPU, not on 'cuda'"):
        list(calculate_all([("a", cube(5.0))], by_environment, "lennard-jones:Ar", devices=["cuda:0", "cuda:1"]))
