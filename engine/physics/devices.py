"""Devices on which potentials run: ``cpu``, ``cuda``, ``cuda:0`` and so on, one process for each.

A process for ``cuda:1`` sees that GPU alone (``CUDA_VISIBLE_DEVICES``) and calls it ``cuda``, so that a potential has
the same options, and the same record in its labels, on every GPU.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from engine.exceptions import PotentialError

_VISIBLE = "CUDA_VISIBLE_DEVICES"


def kind_of(device: str) -> str:
    """``cpu`` or ``cuda``, as a process that sees its own device alone names it; empty for an empty name.

    Raises
    ------
    PotentialError
        If the name is not that of a device.
    """
    if device and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise PotentialError(f"there is no device {device!r}; give cpu, cuda or cuda:0, cuda:1, ...")
    return device.partition(":")[0]


def require_devices(devices: Sequence[str]) -> str:
    """Check that devices of one kind are there, and return that kind.

    Raises
    ------
    PotentialError
        If one is not there, or they are of several kinds, whose numbers differ in their last digits.
    """
    kinds = sorted({kind_of(device) for device in devices})
    if len(kinds) > 1:
        raise PotentialError(f"devices {', '.join(devices)} are of several kinds; give those of one kind")
    if kinds == ["cuda"]:
        import torch

        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        for device in devices:
            if int(device.partition(":")[2] or 0) >= count:
                there = f"{count}, cuda:0 to cuda:{count - 1}" if count else "none"
                raise PotentialError(f"there is no device {device}: of CUDA devices torch finds {there}")
    return kinds[0] if kinds else ""


@contextmanager
def children_on(device: str) -> Iterator[None]:
    """Processes that are started in the block see this device alone; all of them for ``cpu``, ``cuda`` or no name."""
    number = device.partition(":")[2]
    before = os.environ.get(_VISIBLE)
    if number:
        visible = before.split(",") if before else []
        os.environ[_VISIBLE] = visible[int(number)] if int(number) < len(visible) else number
    try:
        yield
    finally:
        if before is not None:
            os.environ[_VISIBLE] = before
        elif number:
            del os.environ[_VISIBLE]
