"""One training loop for every network of ours: AdamW, one-cycle learning rate, clipped gradients, early choice.

The weights kept are those of the epoch with the lowest loss on validation rows taken from the training set; rows held
out by the caller are never seen here. On a GPU the sums of messages are rounded in no fixed order, so that only a CPU
repeats itself bit by bit.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from engine.exceptions import DivergedError, TooFewLabelsError, TrainingError
from engine.graphs.crystal_graph import pack
from engine.learning.device import device, random_states, set_random_states
from engine.learning.memory import in_halves, is_out_of_memory, release, single_crystal_too_large
from engine.learning.networks.activations import Activations, Trunk, from_graphs
from engine.learning.networks.graph_data import GraphData
from engine.learning.networks.losses import masked_loss
from engine.learning.networks.schedule import FineTuning
from engine.learning.seeding import seeded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbones.network import GraphNetwork

CHECKPOINT = "training.pt"
_FORMAT = 2
"""Of the checkpoint; one of another format is that of another training."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training rows ended with; losses in units of the standardised targets.

    That of teachers is in the training loss only: labels choose the epoch.
    """

    number: int
    train_loss: float
    validation_loss: float
    note: str = ""
    """What the user should know of it, e.g. that memory ran out."""


def train_network(
    network: GraphNetwork,
    data: GraphData,
    rows: NDArray[np.int64],
    tuning: FineTuning,
    on_epoch: Callable[[Epoch], None] | None = None,
    *,
    activations: Activations | None = None,
    checkpoint: Path | None = None,
) -> list[Epoch]:
    """Train ``network`` in place on ``rows`` of ``data`` and leave it with its best validation weights.

    Parameters
    ----------
    tuning
        Which of its weights learn, how, and for how long.
    on_epoch
        Called after every epoch.
    activations
        What :func:`engine.learning.networks.activations.frozen_activations` computed of ``rows`` for this strategy;
        without them every pass begins at the graphs, to the same numbers.
    checkpoint
        Folder in which the state after every epoch is kept; a training that finds its own state there goes on from it,
        to the result it would have had.

    Raises
    ------
    DivergedError
        If a loss becomes NaN or infinite; the network then holds its last good weights.
    TooFewLabelsError
        If a property has no label, or only equal ones, in ``rows``.
    TrainingError
        If the checkpoint belongs to another training or was changed, or one crystal alone does not fit into memory.
    """
    _check_labels(network, data, rows)
    with seeded(tuning.seed):  # dropout, where the body has it
        run = TrainingRun(network, data, rows, tuning, activations)
        if checkpoint is not None:
            run.keep_in(checkpoint)
        return run.train(on_epoch)


def predict_network(network: GraphNetwork, data: GraphData, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """``len(rows)`` x P standardised predictions, in batches packed by edges."""
    return predict_both(network, data, rows)[0]


def predict_both(
    network: GraphNetwork, data: GraphData, rows: NDArray[np.int64], trunk: Trunk | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
    """Standardised predictions and, where the network predicts its noise, their log variances, each rows x P."""
    network.eval()
    trunk = trunk or from_graphs(network, data)
    outputs = np.empty((2, len(rows), len(network.properties)), dtype=np.float32)
    with torch.no_grad():
        for packed in pack([data.graphs[i].n_edges for i in rows]):
            for part, shared in in_halves(packed, lambda part: trunk(rows[part]).float()):
                outputs[0, part] = network.heads(shared).cpu().numpy()
                if network.noise is not None:
                    outputs[1, part] = network.noise(shared).cpu().numpy()
    return outputs[0], None if network.noise is None else outputs[1]


class TrainingRun:
    """One training: all that changes from step to step, so that it can be written down and taken up again."""

    def __init__(
        self,
        network: GraphNetwork,
        data: GraphData,
        rows: NDArray[np.int64],
        tuning: FineTuning,
        activations: Activations | None,
    ):
        self.network, self.data, self.schedule = network, data, tuning.schedule
        self.strategy, self.loss, self.balance = tuning.strategy, tuning.loss, tuning.balance
        self.identity = _identity(network, data, rows, tuning)
        self.generator = np.random.default_rng(tuning.seed)
        self.validation, self.training = _split(rows, self.schedule.validation_fraction, self.generator)
        self.validated = bool(np.isfinite(data.targets[self.validation]).any())
        self.device = device()
        network.to(self.device)
        self.trunk = activations.resume(network, data) if activations else from_graphs(network, data)
        self.log_noise = (
            nn.Parameter(torch.zeros(len(network.properties), device=self.device))
            if self.balance == "uncertainty"
            else None
        )
        self.steps = math.ceil(len(self.training) / self.schedule.batch_size)
        self._make_optimiser()
        self.parts = 1  # in which a batch is computed, more when memory is short
        self.notes: list[str] = []
        self.history: list[Epoch] = []
        self.best_weights, self.best_loss, self.best_epoch = copy.deepcopy(network.state_dict()), math.inf, 0
        self.file: Path | None = None

    def _make_optimiser(self) -> None:
        parameters = dict(self.network.named_parameters())
        rate = self.schedule.learning_rate
        self.groups = []  # parameters that learn at one rate
        rates = []
        for parts, group_rate in self.strategy.groups(self.network, rate):
            self.groups.append([parameters[name] for name in self.strategy.trained(self.network, parts)])
            rates.append(group_rate)
        self.learnable = [p for p in parameters.values() if p.requires_grad]
        self.learning = [p for group in self.groups for p in group]
        options: list[dict[str, Any]] = [
            {"params": group, "lr": r} for group, r in zip(self.groups, rates, strict=True)
        ]
        if self.log_noise is not None:
            options.append({"params": [self.log_noise], "lr": rate, "weight_decay": 0.0})
        self.optimiser = torch.optim.AdamW(options, lr=rate, weight_decay=self.schedule.weight_decay)
        self.cycle = torch.optim.lr_scheduler.OneCycleLR(
            self.optimiser, [o["lr"] for o in options], epochs=self.schedule.epochs, steps_per_epoch=self.steps
        )

    def train(self, on_epoch: Callable[[Epoch], None] | None) -> list[Epoch]:
        """Train to the end, and leave the network with its best weights on the CPU."""
        try:
            while not self.finished:
                epoch = self._epoch(len(self.history) + 1)
                self.history.append(epoch)
                if epoch.validation_loss <= self.best_loss or not self.validated:
                    self.best_weights, self.best_loss = copy.deepcopy(self.network.state_dict()), epoch.validation_loss
                    self.best_epoch = epoch.number
                if self.file is not None:
                    _write_whole(self.file, self._state())
                if on_epoch:
                    on_epoch(epoch)
        finally:
            self.network.load_state_dict(self.best_weights)
            for parameter in self.learnable:
                parameter.requires_grad_(True)
            self.network.cpu().eval()
        return self.history

    @property
    def finished(self) -> bool:
        """Whether all epochs are done, or as many without a better one as patience allows."""
        if len(self.history) >= self.schedule.epochs:
            return True
        if self.schedule.patience is None or not self.validated or not self.history:
            return False
        losses = [epoch.validation_loss for epoch in self.history]
        # the last of equal ones, as for the weights that are kept
        best = max(i for i, value in enumerate(losses) if value == min(losses))
        return len(losses) - 1 - best >= self.schedule.patience

    def _epoch(self, number: int) -> Epoch:
        n_open = self.strategy.open_groups(len(self.groups), number, self.schedule.epochs)
        for parameter in self.learnable:
            parameter.requires_grad_(False)
        for parameter in (p for group in self.groups[:n_open] for p in group):
            parameter.requires_grad_(True)
        self.strategy.set_training(self.network)
        losses = []
        for step, chosen in enumerate(np.array_split(self.generator.permutation(self.training), self.steps), start=1):
            loss = self._step(chosen)
            if not math.isfinite(loss):
                raise self._diverged(f"the loss became {loss} in epoch {number}, batch {step} of {self.steps}")
            self.cycle.step()
            losses.append(loss)
        if not all(bool(torch.isfinite(p).all()) for p in self.learning):
            raise self._diverged(f"a weight was no number after epoch {number}")
        validation = self._evaluate()
        if self.validated and not math.isfinite(validation):
            raise self._diverged(f"the validation loss became {validation} after epoch {number}")
        notes, self.notes = "; ".join(self.notes), []
        return Epoch(number, float(np.mean(losses)), validation, notes)

    def _diverged(self, what: str) -> DivergedError:
        return DivergedError(
            f"{what} (of {', '.join(self.network.properties)}); lower the learning rate (now "
            f"{self.schedule.learning_rate:g}) or look for extreme labels",
            self.best_epoch,
        )

    def _step(self, chosen: NDArray[np.int64]) -> float:
        """Loss of one batch, and one step down; if memory runs out the batch is computed in halves, to the same sum."""
        while True:
            try:
                return self._descend(chosen)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                words = str(error)
            self._halve(chosen, words)  # outside the handler, which would keep the tensors of the failed pass alive

    def _descend(self, chosen: NDArray[np.int64]) -> float:
        self.optimiser.zero_grad()
        labels = torch.isfinite(self.data.labels(chosen, self.device)).sum(0)
        total = 0.0
        for rows in np.array_split(chosen, min(self.parts, len(chosen))):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.schedule.bf16):
                shared = self.trunk(rows)
            shared = shared.float()
            loss = self._loss(shared, rows, labels, len(chosen))
            total += loss.item()
            if not math.isfinite(total):
                return total
            loss.backward()
        nn.utils.clip_grad_norm_(self.learning, self.schedule.clip_norm)
        self.optimiser.step()
        return total

    def _loss(self, shared: Tensor, rows: NDArray[np.int64], labels: Tensor, n_batch: int) -> Tensor:
        """Part that ``rows`` have in the loss of a batch of ``n_batch``: of the properties, and of distillation."""
        target = self.data.labels(rows, self.device)
        log_variance = None if self.network.noise is None else self.network.noise(shared)
        loss = masked_loss(
            self.network.heads(shared),
            target,
            log_variance,
            loss=self.loss,
            balance=self.balance,
            log_noise=self.log_noise,
            labels=labels,
        )
        if self.network.imitation is None or self.data.teacher_columns is None:
            return loss
        wanted = torch.from_numpy(self.data.teacher_columns[rows]).to(self.device)
        differences = (self.network.imitation(shared) - wanted).abs().mean(1)
        return loss + differences.sum() / n_batch

    def _halve(self, chosen: NDArray[np.int64], words: str) -> None:
        if self.parts >= len(chosen):
            raise TrainingError(single_crystal_too_large(words))
        self.optimiser.zero_grad()
        release()
        self.parts *= 2
        self.notes = [
            f"out of memory: from here on a batch of {len(chosen)} is computed in {self.parts} parts, to the same sum"
        ]

    def _evaluate(self) -> float:
        """Validation loss, without learned weights of properties, which change from epoch to epoch."""
        if not len(self.validation):
            return math.nan
        mean, log_variance = predict_both(self.network, self.data, self.validation, self.trunk)
        loss = masked_loss(
            torch.from_numpy(mean),
            self.data.labels(self.validation, torch.device("cpu")),
            None if log_variance is None else torch.from_numpy(log_variance),
            loss=self.loss,
            balance="equal" if self.balance == "uncertainty" else self.balance,
        )
        return float(loss)

    def keep_in(self, folder: Path) -> None:
        """Go on from the state in ``folder`` if there is one, and write every later one there."""
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / CHECKPOINT
        if self.file.is_file():
            self._restore(self.file)

    def _state(self) -> bytes:
        buffer = io.BytesIO()
        torch.save(
            {
                "identity": self.identity,
                "weights": self.network.state_dict(),
                "log_noise": None if self.log_noise is None else self.log_noise.detach(),
                "best_weights": self.best_weights,
                "best_loss": self.best_loss,
                "best_epoch": self.best_epoch,
                "optimiser": self.optimiser.state_dict(),
                "cycle": self.cycle.state_dict(),
                "generator": json.dumps(self.generator.bit_generator.state),
                "random_states": random_states(),
                "history": [asdict(epoch) for epoch in self.history],
                "parts": self.parts,
            },
            buffer,
        )
        content = buffer.getvalue()
        return hashlib.sha256(content).digest() + content

    def _restore(self, file: Path) -> None:
        content = file.read_bytes()
        digest, content = content[:32], content[32:]
        if hashlib.sha256(content).digest() != digest:
            raise TrainingError(
                f"{file} was changed or cut short: its SHA-256 is not the one it was written with; "
                "remove it to train from the start"
            )
        state = torch.load(io.BytesIO(content), map_location=self.device, weights_only=True)
        if state["identity"] != self.identity:
            raise TrainingError(
                f"{file} is the checkpoint of another training (data, settings, seed or starting weights differ: "
                f"{state['identity'][:12]}... there, {self.identity[:12]}... asked for); "
                "remove it, or choose another folder"
            )
        self.network.load_state_dict(state["weights"], strict=True)
        if self.log_noise is not None:
            with torch.no_grad():
                self.log_noise.copy_(state["log_noise"])
        self.best_weights, self.best_loss = state["best_weights"], state["best_loss"]
        self.best_epoch = state["best_epoch"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.cycle.load_state_dict(state["cycle"])
        self.generator.bit_generator.state = json.loads(state["generator"])
        set_random_states(state["random_states"])
        self.history = [Epoch(**epoch) for epoch in state["history"]]
        self.parts = state["parts"]


def _check_labels(network: GraphNetwork, data: GraphData, rows: NDArray[np.int64]) -> None:
    targets = data.targets[rows]
    for name, column in zip(network.properties, targets.T, strict=True):
        known = column[~np.isnan(column)]
        if not len(known):
            raise TooFewLabelsError(f"{name} has no label in the {len(rows)} training rows; add labels or leave it out")
        if len(known) > 1 and np.ptp(known[np.isfinite(known)]) == 0:
            raise TooFewLabelsError(f"all {len(known)} training labels of {name} are equal; check them or leave it out")


def _split(
    rows: NDArray[np.int64], fraction: float, generator: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shuffled = generator.permutation(rows)
    n = round(fraction * len(rows))
    return shuffled[:n], shuffled[n:]


def _identity(network: GraphNetwork, data: GraphData, rows: NDArray[np.int64], tuning: FineTuning) -> str:
    """SHA-256 of all that decides a training: settings, rows with graphs and targets, starting weights."""
    settings = (tuning.schedule, tuning.seed, tuning.strategy, tuning.loss, tuning.balance)  # as format 2 has them
    digest = hashlib.sha256(repr((_FORMAT, settings, network.properties)).encode())
    distilled = [] if data.teacher_columns is None else [data.teacher_columns[rows]]
    for array in (rows, data.statistics[rows], data.targets[rows], *distilled):
        digest.update(np.ascontiguousarray(array).tobytes())
    for i in rows.tolist():
        graph = data.graphs[i]
        digest.update(graph.numbers.tobytes() + graph.positions.tobytes() + graph.shifts.tobytes())
    for name, tensor in network.state_dict().items():
        digest.update(name.encode() + tensor.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _write_whole(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)
