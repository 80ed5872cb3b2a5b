"""Where memory runs out: the same work in halves, or an error that says how much was needed and what to do."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from engine.exceptions import TrainingError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Result = TypeVar("Result")
_WORDS = (
    "can't allocate memory", "std::bad_alloc", "could not create a primitive", "could not execute a primitive",
    "CUDA error: out of memory", "STATUS_ALLOC_FAILED",
)  # fmt: skip
"""Of torch's CPU allocator, of C++ below it, of oneDNN (twice), of the CUDA runtime, of cuBLAS and cuDNN. Those of a
GPU are from their documentation: our tests have none."""
_CGROUP = Path("/sys/fs/cgroup")
_CONTAINER = (
    (_CGROUP / "memory.max", _CGROUP / "memory.current"),
    (_CGROUP / "memory/memory.limit_in_bytes", _CGROUP / "memory/memory.usage_in_bytes"),
)
"""Files with the limit and the use of a container's memory."""


def in_halves(
    rows: NDArray[np.int64], compute: Callable[[NDArray[np.int64]], Result]
) -> Iterator[tuple[NDArray[np.int64], Result]]:
    """Yield ``rows`` and what ``compute`` makes of them; rows too many for memory are halved until they fit.

    Raises
    ------
    TrainingError
        If a single row does not fit.
    """
    waiting = [rows]
    while waiting:
        part = waiting.pop()
        result, words = None, ""
        try:
            result = compute(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            words = str(error)
        if result is not None:
            yield part, result
        elif len(part) == 1:
            raise TrainingError(single_crystal_too_large(words))
        else:  # outside the handler, which would keep the tensors of the failed pass alive
            release()
            waiting += [part[len(part) // 2 :], part[: len(part) // 2]]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it is, on a GPU or elsewhere: torch has a class for GPUs alone, other libraries say so in words."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in str(error) for words in _WORDS)


def available_bytes() -> int | None:
    """Memory that this process can still get without swapping, in bytes; ``None`` where the system does not say.

    The least of what the kernel estimates (``MemAvailable``) and what the limit of a container leaves.
    """
    found = [free for free in (_free_of_kernel(), _free_of_container()) if free is not None]
    return min(found, default=None)


def check_memory(needed: int, what: str, advice: str) -> None:
    """Refuse ``what`` (a phrase such as "training on 9,000 labels") where it needs more bytes than there are.

    Raises
    ------
    TrainingError
        With both numbers in GB, and ``advice``.
    """
    free = available_bytes()
    if free is not None and needed > free:
        raise TrainingError(
            f"{what} needs about {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} GB are available; {advice}"
        )


@contextmanager
def memory_errors_explained(needed: int, what: str, advice: str) -> Iterator[None]:
    """Turn an allocation that fails in the block into a :class:`TrainingError`, in words as :func:`check_memory`."""
    words = None
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        words = next(iter(str(error).splitlines()), "") or "no reason was given"
    if words is not None:  # outside the handler, which would keep what was allocated alive
        raise TrainingError(f"memory ran out in {what}, which needs about {needed / 1e9:.1f} GB ({words}); {advice}")


def release() -> None:
    """Free the GPU memory that torch holds for later use."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def single_crystal_too_large(words: str) -> str:
    """Message for the end of halving; ``words`` are those of the library that asked for memory."""
    reason = next(iter(words.splitlines()), "") or "no reason was given"
    return (
        f"memory ran out for a single crystal ({reason}); leave the largest crystals out, or use a machine with more "
        "memory"
    )


def _free_of_kernel() -> int | None:
    """Of Linux; elsewhere the free pages where the system counts them."""
    table = Path("/proc/meminfo")
    if table.is_file():
        for line in table.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    if "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


def _free_of_container() -> int | None:
    """Of control groups, version 2 and 1."""
    for limit, used in _CONTAINER:
        if limit.is_file() and used.is_file() and (text := limit.read_text().strip()).isdigit():
            return max(int(text) - int(used.read_text()), 0)
    return None
