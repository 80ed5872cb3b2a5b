"""A network that goes on from a backbone's weights: what is taken over and proven to be, and heads for one property."""

from __future__ import annotations

import copy
import logging
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load, save

from engine.exceptions import BackboneError, DivergedError, TooFewLabelsError, TrainingError
from engine.execution import ExecutionSettings, executor
from engine.learning.backbones.network import GraphNetwork
from engine.learning.networks.activations import Activations, frozen_activations
from engine.learning.networks.graph_data import GraphData
from engine.learning.networks.losses import Loss
from engine.learning.networks.schedule import FineTuning, Schedule
from engine.learning.networks.strategies import FULL, Strategy, parse
from engine.learning.networks.training import Epoch, predict_both, train_network
from engine.learning.seeding import one_thread, seeded

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from engine.execution import Run
    from engine.learning.backbones.backbone import Backbone
    from engine.learning.backbones.stack import AnyBackbone

TRUNK_SIZE = 128
"""Width of the trunk put on a backbone that has none."""
TRUNK_TENSORS = ("trunk.", "statistics_")
"""How the names of a trunk's tensors begin: it was trained on statistics of that scale."""
_OUTPUT = "output."
_SHOWN = 5


@dataclass(frozen=True)
class Loaded:
    """Which tensors of a network came from given weights."""

    matched: tuple[str, ...]
    new: tuple[str, ...]
    """Tensors of the network that keep their random start."""

    def __str__(self) -> str:
        """One sentence."""
        return f"{len(self.matched)} of {len(self.matched) + len(self.new)} tensors loaded"


def load_weights(network: GraphNetwork, tensors: Mapping[str, Tensor], needed: Collection[str], source: str) -> Loaded:
    """Copy into ``network`` every one of ``tensors`` that fits by name and shape.

    Raises
    ------
    BackboneError
        If a tensor that is ``needed`` does not fit; the message names those.
    """
    own = network.state_dict()
    matched = [name for name, tensor in tensors.items() if name in own and own[name].shape == tensor.shape]
    short = sorted(set(needed) - set(matched))
    if short:
        told = [_mismatch(name, own.get(name), tensors.get(name)) for name in short[:_SHOWN]]
        more = f" and {len(short) - _SHOWN} more" if len(short) > _SHOWN else ""
        raise BackboneError(
            f"{len(set(needed)) - len(short)} of the {len(set(needed))} tensors needed from {source} match; not "
            f"{', '.join(told)}{more}; start from weights of the same architecture, or with a strategy that needs less"
        )
    network.load_state_dict({**own, **{name: tensors[name] for name in matched}}, strict=True)
    return Loaded(tuple(matched), tuple(name for name in own if name not in matched))


def start_network(
    start: Backbone,
    properties: Sequence[str],
    seed: int,
    strategy: Strategy,
    *,
    trunk_size: int,
    keep_trunk: bool,
    loss: Loss = "huber",
    teacher_columns: int = 0,
) -> tuple[GraphNetwork, Loaded]:
    """Make a network with the body of ``start``, its trunk if it is kept, and new heads; says what was loaded.

    Raises
    ------
    BackboneError
        If the start lacks what the strategy needs, e.g. a trunk for ``last``.
    """
    with seeded(seed):
        body = copy.deepcopy(start.body)
        network = GraphNetwork(body, start.network.readout_size, properties, trunk_size, loss == "nll", teacher_columns)
    own = list(network.state_dict())
    needed = [name for name in own if name.startswith("body.")]
    given = {name: t for name, t in start.network.state_dict().items() if name.startswith("body.")}
    if keep_trunk:
        needed += [name for name in own if name.startswith(TRUNK_TENSORS)]
        if start.network.trunk_size:
            given |= {n: t for n, t in start.network.state_dict().items() if n.startswith(TRUNK_TENSORS)}
    strategy.describe(network)  # refuses what this body cannot do before anything is trained
    return network, load_weights(network, given, needed, f"{start.name} for strategy {strategy}")


def new_network(
    backbone: Backbone, seed: int, strategy: Strategy = FULL, loss: Loss = "huber", auxiliaries: int = 0
) -> GraphNetwork:
    """Copy the backbone's body (and trunk, where it has one) under fresh heads for one property and its auxiliaries."""
    has_trunk = bool(backbone.network.trunk_size)
    return start_network(
        backbone,
        ("target", *(f"auxiliary_{i}" for i in range(auxiliaries))),
        seed,
        strategy,
        trunk_size=backbone.network.trunk_size or TRUNK_SIZE,
        keep_trunk=strategy.name == "last" or (has_trunk and strategy.name != "head"),
        loss=loss,
    )[0]


def check_start(backbone: AnyBackbone, strategy: str) -> None:
    """Refuse a strategy of networks that these weights do not allow, before anything is computed.

    Raises
    ------
    BackboneError
        If they lack tensors that it needs, e.g. a trunk for ``last``; the message names them.
    TrainingError
        If they have no such layers, e.g. ``blocks:9``, or are potentials that give embeddings only.
    """
    require_trainable(backbone)
    for part in backbone.trained:
        new_network(part, seed=0, strategy=parse(strategy))


def require_trainable(backbone: AnyBackbone) -> None:
    """Raise :class:`TrainingError` if no network can be fine-tuned from a backbone."""
    if not backbone.trained:
        raise TrainingError(
            f"{backbone.name} gives embeddings only, and no network can be fine-tuned from it; train none (networks = "
            "'none', --strategy none) with a head on embeddings, or add a backbone of ours"
        )


@dataclass(frozen=True, eq=False)
class NetworkHead:
    """A fine-tuned network and the scale of its output."""

    network: GraphNetwork
    mean: float
    std: float

    @classmethod
    def fit(
        cls,
        backbone: Backbone,
        data: GraphData,
        rows: NDArray[np.int64],
        tuning: FineTuning,
        on_epoch: Callable[[Epoch], None] | None = None,
        *,
        activations: Activations | None = None,
    ) -> NetworkHead:
        """Fine-tune a copy of ``backbone`` on ``rows`` of ``data``, whose targets (N x P) are in learned units.

        The first column is the property; others, NaN where unknown, are auxiliaries that the network learns beside it.
        What the strategy leaves frozen is computed once, unless given as ``activations``.
        """
        values = data.targets[rows].astype(np.float64)
        if len(values) < 2 or np.ptp(values[:, 0]) == 0:
            raise TooFewLabelsError(f"{len(values)} training labels with nothing to tell apart; add labels that differ")
        mean, std = np.nanmean(values, axis=0), np.maximum(np.nanstd(values, axis=0), 1e-6)
        network = new_network(backbone, tuning.seed, tuning.strategy, tuning.loss, values.shape[1] - 1)
        if tuning.strategy.name == "head" or not backbone.network.trunk_size:
            network.fit_statistics(torch.from_numpy(data.statistics[rows]))
        standardised = replace(data, targets=((data.targets - mean) / std).astype(np.float32))
        activations = activations or frozen_activations(network, data, rows, tuning.strategy)
        train_network(network, standardised, rows, tuning, on_epoch, activations=activations)
        return cls(network, float(mean[0]), float(std[0]))

    def predict(self, data: GraphData, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """Predicted values of ``rows`` in learned units."""
        return self.predict_with_std(data, rows)[0]

    def predict_with_std(
        self, data: GraphData, rows: NDArray[np.int64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
        """Predicted values of ``rows`` and, of a head that learned its noise (``nll``), their standard deviations."""
        mean, log_variance = predict_both(self.network, data, rows)
        values = mean[:, 0].astype(np.float64) * self.std + self.mean
        if log_variance is None:
            return values, None
        return values, np.exp(0.5 * log_variance[:, 0].astype(np.float64)) * self.std

    def to_tensors(self) -> dict[str, Tensor]:
        """All that :meth:`from_tensors` needs."""
        scale = {"mean": self.mean, "std": self.std}
        output = {_OUTPUT + name: torch.tensor(value, dtype=torch.float64) for name, value in scale.items()}
        return {**self.network.state_dict(), **output}

    @classmethod
    def from_tensors(cls, backbone: Backbone, tensors: Mapping[str, Tensor]) -> NetworkHead:
        """Build a trained head from its stored tensors; they must match the network one to one."""
        auxiliaries = len(tensors["heads.weight"]) - 1
        loss: Loss = "nll" if "noise.weight" in tensors else "huber"
        network = new_network(backbone, seed=0, loss=loss, auxiliaries=auxiliaries)
        network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith(_OUTPUT)}, strict=True)
        return cls(network.eval(), float(tensors[_OUTPUT + "mean"]), float(tensors[_OUTPUT + "std"]))


def fine_tuning(epochs: int = 30) -> Schedule:
    """Schedule of an ensemble's networks.

    None of their rows is set aside to choose an epoch: the last one of a cycle is the best or next to it, and the fold
    that a network leaves out measures its error anyway.
    """
    return Schedule(epochs, batch_size=32, validation_fraction=0.0)


def fit_heads(
    backbone: Backbone,
    data: GraphData,
    jobs: Sequence[tuple[NDArray[np.int64], int]],
    tuning: FineTuning,
    workers: int = 1,
    *,
    run: Run | None = None,
) -> Iterator[NetworkHead]:
    """Fit one head a job, in order: here, in ``workers`` processes, or where ``run`` says.

    A job is training rows, and the seed in place of that of ``tuning``. The numbers are the same everywhere if torch
    runs on one thread here too. What the strategy leaves frozen is computed once a process.
    """
    rows = np.unique(np.concatenate([rows for rows, _ in jobs]))
    workers = min(workers, len(jobs))
    if run is None and workers == 1:
        fitter = _Fitter(backbone, data, tuning, rows)
        for job in jobs:
            yield fitter.fit(job)
        return
    start = _Start(_files(backbone), data, tuning, rows)
    with executor(ExecutionSettings(workers=workers)) if run is None else nullcontext(run) as ready:
        for stored in _in_order(ready.map_unordered(_fit_stored, enumerate(jobs), start)):
            yield NetworkHead.from_tensors(backbone, load(stored))


class _Fitter:
    """Fits heads that share what is frozen below them."""

    def __init__(self, backbone: Backbone, data: GraphData, tuning: FineTuning, rows: NDArray[np.int64]):
        self._backbone, self._data, self._tuning = backbone, data, tuning
        network = new_network(backbone, seed=0, strategy=tuning.strategy, loss=tuning.loss)
        self._activations = frozen_activations(network, data, rows, tuning.strategy)

    def fit(self, job: tuple[NDArray[np.int64], int]) -> NetworkHead:
        rows, seed = job
        tuning = replace(self._tuning, seed=seed)
        try:
            return NetworkHead.fit(self._backbone, self._data, rows, tuning, _tell, activations=self._activations)
        except DivergedError as error:
            raise DivergedError(
                f"a network of seed {seed} on {self._backbone.name} (strategy {tuning.strategy}): {error}; "
                "nothing was written"
            ) from error


@dataclass(frozen=True, eq=False)
class _Start:
    """What a worker needs for every job; it travels once."""

    backbone: dict[str, bytes]
    """Files of the backbone by name."""
    data: GraphData
    tuning: FineTuning
    rows: NDArray[np.int64]


@lru_cache(maxsize=1)
def _fitter(start: _Start) -> _Fitter:
    from engine.learning.backbones.backbone import load_backbone

    with tempfile.TemporaryDirectory(prefix="kappascout-members-") as folder:
        for name, content in start.backbone.items():
            (Path(folder) / name).write_bytes(content)
        backbone = load_backbone(folder)
    return _Fitter(backbone, start.data, start.tuning, start.rows)


def _fit_stored(item: tuple[int, tuple[NDArray[np.int64], int]], start: _Start) -> tuple[int, bytes]:
    index, job = item
    with _training, one_thread():
        head = _fitter(start).fit(job)
    return index, save({name: tensor.contiguous() for name, tensor in head.to_tensors().items()})


_training = threading.Lock()
"""Held while a network trains: torch's random stream is one for all threads that a worker may have."""


def _tell(epoch: Epoch) -> None:
    """Log the note of an epoch, if it has one; also in a worker process."""
    if epoch.note:
        logging.getLogger(__name__).warning("epoch %d: %s", epoch.number, epoch.note)


def _files(backbone: Backbone) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory(prefix="kappascout-members-") as folder:
        return {path.name: path.read_bytes() for path in backbone.save(folder).iterdir()}


def _in_order(results: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
    early: dict[int, bytes] = {}
    following = 0
    for index, stored in results:
        early[index] = stored
        while following in early:
            yield early.pop(following)
            following += 1


def _mismatch(name: str, own: Tensor | None, given: Tensor | None) -> str:
    if own is None:
        return f"{name} (not in the network)"
    if given is None:
        return f"{name} (missing)"
    return f"{name} ({_shape(given)} there, {_shape(own)} here)"


def _shape(tensor: Tensor) -> str:
    return " x ".join(str(n) for n in tensor.shape) or "a number"
