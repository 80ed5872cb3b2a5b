"""Backtests: campaigns replayed on labelled data with the production code, against random and extra-trees.

Every run is a real campaign in a temporary directory, so that what is measured is what users run. Only graphs and
embeddings are shared between runs.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from campaigns.exceptions import CampaignError
from campaigns.files import write_whole
from campaigns.training_set import Scale, flaw
from engine.materials.crystal import Material
from engine.materials.duplicates import link_duplicates
from engine.metrics.discovery import DiscoveryPoint, acceleration, discovery_curve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from engine.learning.backbone import Backbone

HEADS = ("gp", "mlp", "full")
ACQUISITIONS = ("ucb", "qUCB", "qLogEI", "greedy", "thompson")
BASELINES = ("random", "extra-trees")
_TREES = 500


@dataclass(frozen=True)
class Protocol:
    """What every strategy of a backtest is given alike."""

    files: tuple[str, ...]
    property: str
    goal: Literal["min", "max"]
    initial: int
    batch: int
    rounds: int
    seeds: tuple[int, ...]
    scale: Literal["log10", "linear"]
    start: str = "megnet-multiproperty"
    """Backbone or trained model that every strategy starts from."""
    members: int = 5
    initial_ids: Mapping[str, Sequence[str]] | None = None
    """Initial ids by seed, instead of those drawn by ``numpy.random.default_rng(seed)``."""


@dataclass
class Run:
    """One strategy with one seed."""

    strategy: str
    seed: int
    acquired: list[str]
    """Ids in the order of acquisition; the initial ones first."""
    round_seconds: list[float] = field(default_factory=list)
    rounds: list[dict[str, Any]] = field(default_factory=list)
    """Discovery after the initial labels (round 0) and after every round, with the round's own judgement."""
    acceleration_50: float | None = None
    acceleration_80: float | None = None


def parse_strategies(text: str) -> list[str]:
    """``S[,S2]``: a head and an acquisition function (``gp-ucb``), the latter alone (head ``gp``), or a baseline."""
    found = []
    for name in text.split(","):
        head, _, acquisition = name.strip().rpartition("-")
        whole = name.strip()
        if whole in BASELINES:
            found.append(whole)
        elif acquisition in ACQUISITIONS and head in ("", *HEADS):
            found.append(f"{head or 'gp'}-{acquisition}")
        else:
            raise CampaignError(
                f"unknown strategy {whole!r}; give {' or '.join(BASELINES)}, or HEAD-ACQUISITION with a head of "
                f"{', '.join(HEADS)} and an acquisition of {', '.join(ACQUISITIONS)}, e.g. gp-ucb"
            )
    return found


def backtest(
    protocol: Protocol,
    strategies: Sequence[str],
    *,
    out: Path | None = None,
    workers: int | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[Run]:
    """Run every strategy with every seed, each in a process of one thread; ``out`` grows with every finished run.

    Raises
    ------
    CampaignError
        If the pool is smaller than what would be asked for, or the starting model has seen the answers.
    """
    materials = _labelled(protocol)
    copies = sum(original is not None for _, original in link_duplicates(materials, {}))
    if copies:
        say(f"{copies} of {len(materials)} records are copies of another; a copy is acquired only in an initial set")
    _check_size(protocol, len(materials) - copies)
    for seed in protocol.seeds:
        initial_ids(protocol, [m.id for m in materials], seed)
    backbone = _check_leak(protocol, materials)
    jobs = list(dict.fromkeys((strategy, seed) for strategy in strategies for seed in protocol.seeds))
    if out:
        _check_writable(out)
    cores = workers or len(os.sched_getaffinity(0))
    runs: list[Run] = []
    with tempfile.TemporaryDirectory(prefix="kappascout-backtest-") as name:
        folder = Path(name)
        say(f"{len(materials)} materials; making embeddings with {backbone.name}")
        _embed(backbone, materials, folder / "features")
        for run in _run_all(protocol, materials, jobs, folder, min(cores, len(jobs))):
            runs.append(run)
            say(describe_run(run))
            if out:
                write_results(out, protocol, _in_order(runs, jobs))
    return _in_order(runs, jobs)


def _run_all(
    protocol: Protocol, materials: Sequence[Material], jobs: Sequence[tuple[str, int]], folder: Path, workers: int
) -> Iterator[Run]:
    """Every run as it is finished."""
    if workers == 1:
        yield from (_run_alone(protocol, materials, *job, folder) for job in jobs)
        return
    try:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            waiting = [pool.submit(_run_alone, protocol, materials, *job, folder) for job in jobs]
            try:
                for future in as_completed(waiting):
                    yield future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    except BrokenProcessPool as error:
        raise CampaignError("a process of the backtest died, probably out of memory; use fewer --workers") from error


def read_initial_ids(path: Path) -> dict[str, list[str]]:
    """Read the initial ids of each seed: ``{"0": ["id", ...], "1": [...]}``."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CampaignError(f"--initial-ids {path} cannot be read: {error}") from error
    lists = content.values() if isinstance(content, dict) else [None]
    if not all(isinstance(ids, list) and all(isinstance(id_, str) for id_ in ids) for ids in lists):
        raise CampaignError(f'--initial-ids {path}: give {{"0": ["id", ...], "1": [...]}}, one list of ids a seed')
    return dict(content)


def parse_seeds(text: str) -> tuple[int, ...]:
    """``0,1,2``: whole numbers from zero up."""
    seeds = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in seeds):
        raise CampaignError(f"--seeds {text!r}: give whole numbers from zero up with commas, e.g. 0,1,2")
    return tuple(dict.fromkeys(int(part) for part in seeds))


def write_results(path: Path, protocol: Protocol, runs: Sequence[Run]) -> None:
    """Write the JSON that scorers read."""
    content = {"protocol": asdict(protocol), "runs": [asdict(run) for run in runs]}
    write_whole(path, json.dumps(content, indent=1) + "\n")


def describe_run(run: Run) -> str:
    """One line: what a run had found at its end."""
    end = run.rounds[-1]
    return (
        f"{run.strategy} seed {run.seed}: {end['labels']} labels, recall of the top 1 % {end['recall_top1']:.2f}, "
        f"of the top 5 % {end['recall_top5']:.2f}, regret {end['regret']:.3g}"
    )


def summarise(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """One row a strategy: mean and standard deviation over seeds at the end of the runs."""
    rows = []
    for strategy in dict.fromkeys(run.strategy for run in runs):
        own = [run for run in runs if run.strategy == strategy]
        ends = [run.rounds[-1] for run in own]
        row: dict[str, Any] = {"strategy": strategy, "seeds": len(own), "labels": ends[0]["labels"]}
        for name in ("recall_top1", "recall_top5", "enhancement_top5", "regret"):
            values = [end[name] for end in ends]
            row[name] = float(np.mean(values))
            row[f"{name}_std"] = float(np.std(values))
        for name in ("acceleration_50", "acceleration_80"):
            reached = [getattr(run, name) for run in own if getattr(run, name) is not None]
            row[name] = float(np.mean(reached)) if len(reached) == len(own) else None
        row["seconds_a_round"] = float(np.mean([s for run in own for s in run.round_seconds]))
        rows.append(row)
    return rows


def _labelled(protocol: Protocol) -> list[Material]:
    """Read the records that have the property, in file order; all must be usable: the initial sets count them."""
    from engine.materials.checks import Rejection
    from engine.materials.loading import load

    outcomes = [outcome for part in load(protocol.files) for outcome in part]
    refused = [f"{o.source} ({o.message})" for o in outcomes if isinstance(o, Rejection)]
    materials = [o for o in outcomes if isinstance(o, Material)]
    found = [m for m in materials if protocol.property in m.properties]
    if not found:
        fields = sorted({name for m in materials for name in m.properties})
        raise CampaignError(
            f"no record has the property {protocol.property!r} (there are: {', '.join(fields) or 'none'}); "
            "check --property"
        )
    flaws = ((m, flaw(m.properties[protocol.property], protocol.scale)) for m in found)
    refused += [f"{m.id} ({protocol.property} {problem})" for m, problem in flaws if problem]
    if refused:
        raise CampaignError(
            f"{len(refused)} of {len(outcomes)} records cannot be used, the first {refused[0]}; a backtest needs the "
            "whole pool, so that its initial sets are those of other programs: leave them out of the file"
        )
    twice = [id_ for id_, count in Counter(m.id for m in found).items() if count > 1]
    if twice:
        raise CampaignError(f"the id {twice[0]!r} stands twice in the pool; ids must be unique")
    return found


def _check_size(protocol: Protocol, size: int) -> None:
    asked = protocol.initial + protocol.batch * protocol.rounds
    if asked > size:
        raise CampaignError(
            f"{protocol.initial} + {protocol.rounds} x {protocol.batch} = {asked} labels are asked for, the pool has "
            f"{size}; lower --initial, --batch or --rounds"
        )


def _check_writable(out: Path) -> None:
    """Find out before the runs, not after, that their results cannot be written; what is there stays."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent):
        pass
    if out.is_dir():
        raise CampaignError(f"--out {out} is a folder; name a JSON file")


def _check_leak(protocol: Protocol, materials: Sequence[Material]) -> Backbone:
    """Refuse a start that was trained on the property for crystals of the pool."""
    from engine.learning.storage import load_start

    backbone = load_start(protocol.start)
    seen = set(backbone.card.get("seen", {}).get(protocol.property, ()))
    leaked = [m.id for m in materials if m.content_hash[:12] in seen]
    if leaked:
        raise CampaignError(
            f"{protocol.start} was trained on {protocol.property} of {len(leaked)} materials of this pool "
            f"(e.g. {leaked[0]}), so the backtest would know the answers; start from a model that has not seen them"
        )
    return backbone


def _embed(backbone: Backbone, materials: Sequence[Material], folder: Path) -> None:
    from engine.learning.features import Featuriser

    Featuriser(backbone, folder).add({m.content_hash: m.crystal for m in materials})


def initial_ids(protocol: Protocol, ids: Sequence[str], seed: int) -> list[str]:
    """Ids labelled before the first round: given, or drawn over the pool in file order."""
    if protocol.initial_ids is not None:
        given = protocol.initial_ids.get(str(seed))
        if given is None:
            raise CampaignError(f"the file of initial ids has no entry for seed {seed}; it needs one list a seed")
        absent = sorted(set(given) - set(ids))
        if absent:
            raise CampaignError(
                f"initial ids of seed {seed}: {len(absent)} are not in the pool, the first {absent[0]!r}; correct them"
            )
        if len(set(given)) != protocol.initial:
            raise CampaignError(
                f"initial ids of seed {seed}: {len(set(given))} different ones given, --initial asks for "
                f"{protocol.initial}; make them agree"
            )
        return list(given)
    rows = np.random.default_rng(seed).choice(len(ids), protocol.initial, replace=False)
    return [ids[i] for i in rows]


def _run_alone(protocol: Protocol, materials: Sequence[Material], strategy: str, seed: int, folder: Path) -> Run:
    """One run, in a process of its own."""
    import torch

    torch.set_num_threads(1)
    ids = [m.id for m in materials]
    values = np.array([float(m.properties[protocol.property]) for m in materials])
    started = initial_ids(protocol, ids, seed)
    run = Run(strategy, seed, started)
    if strategy in BASELINES:
        judgements = _run_baseline(protocol, materials, values, run, folder / "features")
    else:
        judgements = _run_campaign(protocol, materials, values, run, folder)
    _judge(protocol, ids, values, run, judgements)
    return run


def _run_campaign(
    protocol: Protocol, materials: Sequence[Material], values: NDArray[np.float64], run: Run, folder: Path
) -> list[dict[str, Any]]:
    from campaigns.campaign import Campaign, round_row
    from campaigns.ingestion import IngestReport, add_materials
    from campaigns.labelers import Replay
    from db.records import LabelRecord

    directory = folder / f"{run.strategy}-{run.seed}"
    answers = {m.id: float(v) for m, v in zip(materials, values, strict=True)}
    with Campaign.create_from(directory, _configuration(directory.name, protocol, run)) as campaign:
        campaign.features = folder / "features"
        campaign.labeler = Replay(campaign.configuration.campaign, answers, "backtest")
        add_materials(campaign.store, materials, IngestReport())
        unit = campaign.configuration.campaign.unit
        campaign.store.add_labels(
            LabelRecord(id_, protocol.property, answers[id_], unit, "dft", source="initial") for id_ in run.acquired
        )
        for number in range(1, protocol.rounds + 1):
            began = time.perf_counter()
            campaign.run(rounds=1)
            run.round_seconds.append(round(time.perf_counter() - began, 3))
            run.acquired = run.acquired + [e.material_id for e in campaign.store.queue(round=number)]
        return [round_row(record) for record in campaign.store.rounds()]


def _configuration(name: str, protocol: Protocol, run: Run) -> str:
    head, acquisition = run.strategy.split("-")
    settings: dict[str, dict[str, Any]] = {
        "campaign": {
            "name": name,
            "goal": protocol.goal,
            "property": protocol.property,
            "unit": "W/(m K)" if protocol.property.startswith("kappa") else "-",
            "scale": protocol.scale,
            "batch": protocol.batch,
            "budget": protocol.batch * protocol.rounds,
            "seed": run.seed,
        },
        "model": {
            "backbone": str(Path(protocol.start).resolve()) if Path(protocol.start).exists() else protocol.start,
            "strategy": "full" if head == "full" else "frozen",
            "head": "mlp" if head == "mlp" else "gp",
            "members": protocol.members,
        },
        "acquisition": {"function": acquisition},
        "labeler": {"kind": "replay", "source": "backtest"},
    }
    return "\n".join(
        f"[{section}]\n" + "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in keys.items())
        for section, keys in settings.items()
    )


def _run_baseline(
    protocol: Protocol, materials: Sequence[Material], values: NDArray[np.float64], run: Run, features: Path
) -> list[dict[str, Any]]:
    """``random``, or ``extra-trees``: 500 trees on composition statistics and readout, mean less one deviation."""
    position = {m.id: i for i, m in enumerate(materials)}
    learned = Scale(protocol.scale).learned(values) * (1 if protocol.goal == "min" else -1)
    bought = [position[id_] for id_ in run.acquired]
    rng = np.random.default_rng(run.seed)
    rng.choice(len(materials), protocol.initial, replace=False)  # the stream stands where the initial draw left it
    x = _tree_features(protocol, materials, features) if run.strategy == "extra-trees" else None
    for _ in range(protocol.rounds):
        began = time.perf_counter()
        free = np.setdiff1d(np.arange(len(materials)), bought)
        if x is None:
            chosen = rng.choice(free, protocol.batch, replace=False)
        else:
            chosen = free[np.argsort(_tree_bound(x, learned, bought, free, run.seed), kind="stable")[: protocol.batch]]
        bought += [int(i) for i in chosen]
        run.round_seconds.append(round(time.perf_counter() - began, 3))
    run.acquired = [materials[i].id for i in bought]
    return [{} for _ in range(protocol.rounds)]


def _tree_features(protocol: Protocol, materials: Sequence[Material], folder: Path) -> NDArray[np.float32]:
    from engine.learning.features import Featuriser
    from engine.learning.storage import load_start

    backbone = load_start(protocol.start)
    embeddings = Featuriser(backbone, folder).embeddings([m.content_hash for m in materials])
    return embeddings[:, : backbone.groups["readout"].stop]


def _tree_bound(
    x: NDArray[np.float32], target: NDArray[np.float64], bought: list[int], free: NDArray[np.int64], seed: int
) -> NDArray[np.float64]:
    from sklearn.ensemble import ExtraTreesRegressor

    forest = ExtraTreesRegressor(_TREES, max_features=0.5, n_jobs=1, random_state=seed).fit(x[bought], target[bought])
    predicted = np.stack([tree.predict(x[free]) for tree in forest.estimators_])
    return predicted.mean(0) - predicted.std(0)


def _judge(
    protocol: Protocol, ids: Sequence[str], values: NDArray[np.float64], run: Run, judgements: list[dict[str, Any]]
) -> None:
    position = {id_: i for i, id_ in enumerate(ids)}
    points: list[DiscoveryPoint] = discovery_curve(
        Scale(protocol.scale).learned(values),
        [position[id_] for id_ in run.acquired],
        goal=protocol.goal,
        initial=protocol.initial,
        batch=protocol.batch,
    )
    run.acceleration_50 = acceleration(points, len(ids), 0.5)
    run.acceleration_80 = acceleration(points, len(ids), 0.8)
    rows: Iterator[dict[str, Any]] = iter([{}, *judgements])
    run.rounds = [asdict(point) | {"judgement": next(rows)} for point in points]


def _in_order(runs: Sequence[Run], jobs: Sequence[tuple[str, int]]) -> list[Run]:
    return sorted(runs, key=lambda run: jobs.index((run.strategy, run.seed)))
