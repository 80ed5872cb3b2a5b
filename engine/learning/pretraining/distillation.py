"""Teachers: what slower networks make of crystals, learned by a faster one beside its properties.

A potential trained on millions of forces knows of bonds what no few thousand labels tell. Its columns of a crystal are
targets of a linear head on the trunk of the network that learns (knowledge distillation, Hinton, Vinyals and Dean,
arXiv 1503.02531; 2015; hidden layers as targets, Romero et al., arXiv 1412.6550; 2015), which is dropped afterwards:
the network keeps what it had to understand, at its own speed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from engine.exceptions import TrainingError
from engine.learning.features.featuriser import Featuriser, chunks
from engine.learning.features.statistics import STATISTICS

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.backbone import Backbone
    from engine.learning.networks.strategies import Strategy
    from engine.materials.crystal import Material

COLUMNS = "teachers"
"""Folder in that of a stage, until it is finished: what teachers said, for one that goes on after an interruption."""


def check_teachers(stage: str, names: Sequence[str], strategy: Strategy) -> None:
    """Raise :class:`TrainingError` for teachers that a stage cannot have, or cannot learn from."""
    if isinstance(names, str):
        raise TrainingError(f"teachers of stage {stage} is {names!r}; give a list of names or paths")
    if len(set(names)) < len(names):
        raise TrainingError(f"stage {stage} names a teacher twice ({', '.join(names)}); name each once")
    if names and strategy.name == "last":
        raise TrainingError(
            f"stage {stage} has teachers, but strategy 'last' leaves all frozen that could learn from them; use 'full'"
        )


def load_teachers(names: Sequence[str]) -> tuple[Backbone, ...]:
    """Load teachers by name or path, as starting weights are."""
    from engine.learning.ensemble.storage import load_start

    return tuple(load_start(name) for name in names)


def teacher_columns(
    teachers: Sequence[Backbone],
    materials: Sequence[Material],
    training: NDArray[np.bool_],
    folder: Path | None,
    say: Callable[[str], None],
) -> NDArray[np.float32] | None:
    """Readout and trunk of every teacher side by side (N x C), standardised on ``training`` rows (N); no teacher, none.

    Columns that say the same of all these rows are left out. What was computed is kept in ``folder``, if given.

    Raises
    ------
    TrainingError
        If that is so of every column.
    """
    if not teachers:
        return None
    with tempfile.TemporaryDirectory(prefix="kappascout-teachers-") as temporary:
        kept = Path(temporary if folder is None else folder / COLUMNS)
        columns = np.concatenate([_columns(teacher, materials, kept, say) for teacher in teachers], axis=1)
    mean, std = columns[training].mean(axis=0), columns[training].std(axis=0)
    differ = std > 1e-6 * np.maximum(np.abs(mean), 1.0)
    if not differ.any():
        raise TrainingError(
            f"{', '.join(t.name for t in teachers)} say the same of all {np.count_nonzero(training)} training "
            "crystals, so that nothing can be learned from them; choose other teachers or crystals"
        )
    return ((columns - mean) / np.where(differ, std, 1.0))[:, differ].astype(np.float32)


def _columns(
    teacher: Backbone, materials: Sequence[Material], folder: Path, say: Callable[[str], None]
) -> NDArray[np.float64]:
    featuriser = Featuriser(teacher, folder, keep_graphs=False)
    crystals = {m.content_hash: m.crystal for m in materials}
    done = 0
    for keys in chunks(list(crystals)):
        featuriser.add({key: crystals[key] for key in keys})
        done += len(keys)
        say(f"teacher {teacher.name}: {done} of {len(crystals)} crystals")
    embeddings = featuriser.embeddings([m.content_hash for m in materials])
    return embeddings[:, len(STATISTICS) :].astype(np.float64)
