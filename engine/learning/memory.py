"""Going on where memory runs out: the same work in halves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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
