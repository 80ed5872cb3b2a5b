"""Memory that does not suffice: what is said, before and after."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from engine.exceptions import TrainingError
from engine.learning import memory
from engine.learning.memory import available_bytes, check_memory, memory_errors_explained


def test_more_than_there_is_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda: 10**9)
    check_memory(10**9, "training on 10 labels", "give fewer")
    with pytest.raises(TrainingError, match=r"training on 9 labels needs about 2.0 GB .* 1.0 GB are .*; give fewer"):
        check_memory(2 * 10**9, "training on 9 labels", "give fewer")
    monkeypatch.setattr(memory, "available_bytes", lambda: None)
    check_memory(10**18, "training on 9 labels", "give fewer")


def test_a_container_s_limit_counts(monkeypatch, tmp_path):
    limit, used = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(memory, "_CONTAINER", ((limit, used),))
    free = available_bytes()
    limit.write_text("max\n")
    used.write_text("300\n")
    assert (free is None) == (available_bytes() is None)
    limit.write_text("1000\n")
    assert available_bytes() == 700


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**58), lambda: np.empty(2**58)], ids=["torch", "numpy"])
def test_an_allocation_that_fails_is_explained(allocate):
    with (
        pytest.raises(TrainingError, match=r"memory ran out in training on 9 labels, .* 2.0 GB \(.*\); give fewer"),
        memory_errors_explained(2 * 10**9, "training on 9 labels", "give fewer"),
    ):
        allocate()


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="other"), memory_errors_explained(1, "training", "give fewer"):
        raise RuntimeError("other")
