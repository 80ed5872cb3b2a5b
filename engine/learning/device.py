"""Where networks compute: the one place that chooses a device, and the random streams that belong to it."""

from __future__ import annotations

import torch
from torch import Tensor


def device() -> torch.device:
    """CUDA where there is one, else the CPU. Nothing here was ever run on a GPU: our tests have none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpus() -> list[int]:
    """Numbers of the GPUs that torch sees, each with a random stream of its own (dropout draws from it)."""
    return list(range(torch.cuda.device_count()))


def random_states() -> list[Tensor]:
    """State of torch's random stream on the CPU, then on each GPU."""
    return [torch.get_rng_state(), *(torch.cuda.get_rng_state(i) for i in gpus())]


def set_random_states(states: list[Tensor]) -> None:
    """Restore what :func:`random_states` gave; a GPU that was not there then goes on with its own stream."""
    first, *others = (state.cpu() for state in states)
    torch.set_rng_state(first)
    for number, state in zip(gpus(), others, strict=False):
        torch.cuda.set_rng_state(state, number)
