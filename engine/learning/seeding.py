"""What makes torch repeat itself: its global random stream and its number of threads, set for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from engine.learning.device import gpus


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block, GPUs too; the global streams go on afterwards as if nothing had been drawn."""
    with torch.random.fork_rng(devices=gpus()):
        torch.manual_seed(seed)
        yield


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: the rounding of a sum depends on how many share it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
