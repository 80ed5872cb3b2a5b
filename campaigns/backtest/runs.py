"""Every strategy with every seed, in processes of one thread; finished runs are stored, so that a rerun continues.

Finished runs are files in a folder beside the results (``b.runs/`` for ``b.json``), each with the hashes and settings
that determine it. Further strategies and seeds are added to what is there; runs of other inputs are refused.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from campaigns.backtest.curves import bands, pool_size, summarise
from campaigns.backtest.ladder import LadderRun, replay_ladder
from campaigns.backtest.leaks import Leak, find_leaks
from campaigns.backtest.page import check_place, write_page
from campaigns.backtest.peers import package_version
from campaigns.backtest.protocol import LabelledPool, Protocol, check_size, initial_ids, read_pool
from campaigns.backtest.replay import BacktestRun, replay
from campaigns.backtest.strategies import BacktestStrategy, deciding_settings, start_of
from campaigns.exceptions import CampaignError
from campaigns.files import write_whole
from campaigns.version import code_version
from db.records import Json
from engine.execution import ExecutionSettings, cores, executor
from engine.learning.backbones.stack import make_featuriser
from engine.learning.ensemble.storage import load_ensemble, load_starts
from engine.materials.duplicates import link_duplicates
from engine.metrics.discovery import top_words

if TYPE_CHECKING:
    from engine.learning.backbones.stack import AnyBackbone

Job = tuple[BacktestStrategy, int]
_VERSIONS = ("kappascout", "torch", "matgl", "botorch", "gpytorch", "scikit-learn", "numpy")


def backtest(
    protocol: Protocol,
    strategies: Sequence[BacktestStrategy],
    *,
    out: Path | None = None,
    workers: int | None = None,
    allow_seen: bool = False,
    report: Path | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> list[BacktestRun]:
    """Run every strategy with every seed, each in a process of one thread; ``out`` grows with every finished run.

    Parameters
    ----------
    strategies
        As :func:`parse_strategies` and :func:`parse_against` give them.
    out
        JSON to write; beside it, finished runs are stored and used again.
    allow_seen
        Accept a model that was trained on answers; its runs are marked.
    report
        HTML page of the curves to write at the end.

    Raises
    ------
    CampaignError
        If the pool is smaller than what would be queried, the starting model was trained on the answers, a peer is not
        installed, or finished runs of other inputs are beside ``out``.
    """
    own = {
        s.name: package_version(s.name) if s.is_peer else deciding_settings(protocol, s) for s in strategies
    }  # missing packages and contradictions are refused before anything is read
    if report:
        check_place(report)
    pool = _checked_pool(protocol, say)
    backbone = load_starts(protocol.start)
    seen = _seen(protocol, pool, backbone, strategies, allow_seen, say)
    jobs = [(strategy, seed) for strategy in strategies for seed in protocol.seeds]
    common = _inputs(protocol, pool, backbone)
    finished = _Finished(out, {name: common | settings for name, settings in own.items()}) if out else None
    runs = finished.read(jobs) if finished else []
    if runs:
        say(f"{len(runs)} of {len(jobs)} runs are finished already")
    done = {(run.strategy, run.seed) for run in runs}
    left = [(strategy, seed) for strategy, seed in jobs if (strategy.name, seed) not in done]
    for run in _run_all(protocol, pool, backbone, left, workers, say):
        run.seen = run.strategy in seen
        runs.append(run)
        say(describe_run(run))
        if finished:
            finished.keep(run)
            write_results(finished.out, protocol, _in_order(runs, jobs))
    runs = _in_order(runs, jobs)
    if finished:
        write_results(finished.out, protocol, runs)
    if report:
        write_page(protocol, runs, report)
    return runs


def _checked_pool(protocol: Protocol, say: Callable[[str], None]) -> LabelledPool:
    """The labelled crystals; refused where they are fewer than would be queried, or lack initial ids."""
    pool = read_pool(protocol)
    copies = sum(placed.copy_of is not None for placed in link_duplicates(pool.materials, {}))
    if copies:
        say(f"{copies} of {len(pool)} records are copies of another; a copy is acquired only in an initial set")
    if pool.split is not None:
        say(f"{pool.split.describe()}; initial labels are of training rows, candidates are the test rows")
    check_size(protocol, pool.n_candidates - copies, None if pool.split is None else len(pool.split.training))
    for seed in protocol.seeds:
        initial_ids(protocol, pool.initial_side, seed)
    return pool


def write_results(path: Path, protocol: Protocol, runs: Sequence[BacktestRun]) -> None:
    """Write the results as JSON: the runs, and their statistics over seeds."""
    content = {
        "protocol": _given(asdict(protocol)),
        "versions": {name: version(name) for name in _VERSIONS},
        "seen": any(run.seen for run in runs),
        "runs": [asdict(run) for run in runs],
        "summary": summarise(runs),
        "bands": bands(runs),
    }
    write_whole(path, json.dumps(content, indent=1) + "\n")


def describe_run(run: BacktestRun) -> str:
    """Summary of a run at its end, on one line."""
    end = run.rounds[-1]
    one, five = (top_words(pool_size(run), percent) for percent in (1, 5))
    return (
        f"{run.strategy} seed {run.seed}: {end['labels']} labels, recall of the {one} {end['recall_top1']:.2f}, "
        f"of the {five} {end['recall_top5']:.2f}, regret {end['regret']:.3g}"
    )


class _Finished:
    """Finished runs beside the results, one file each."""

    def __init__(self, out: Path, inputs: dict[str, Json]):
        if out.is_dir():
            raise CampaignError(f"--out {out} is a folder; name a JSON file")
        self.out = out
        self._folder = out.with_suffix(".runs")
        self._inputs = inputs
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder):  # fails now rather than after the first run
            pass

    def read(self, jobs: Sequence[Job]) -> list[BacktestRun]:
        """Those of ``jobs`` that are finished."""
        found = [content for s, seed in jobs if (content := self._content(s.name, seed)) is not None]
        return [LadderRun(**content) if "bought" in content else BacktestRun(**content) for content in found]

    def keep(self, run: BacktestRun) -> None:
        """Write a finished run with the inputs that determine it."""
        inputs = self._inputs[run.strategy]
        content = {"inputs_sha256": _sha256(inputs), "inputs": inputs, "run": asdict(run)}
        write_whole(self._path(run.strategy, run.seed), json.dumps(content) + "\n")

    def _content(self, strategy: str, seed: int) -> Json | None:
        path = self._path(strategy, seed)
        if not path.is_file():
            return None
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            found, run = content["inputs_sha256"], dict(content["run"])
        except (ValueError, KeyError, TypeError) as error:
            raise CampaignError(f"{path} is not the file of a finished run ({error}); remove it") from error
        now = self._inputs[strategy]
        if found != _sha256(now):
            before = content["inputs"]
            changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
            raise CampaignError(
                f"{path} was run with other inputs ({'; '.join(_change(n, before, now) for n in changed)}); give "
                f"another --out, or remove {self._folder}"
            )
        return run

    def _path(self, strategy: str, seed: int) -> Path:
        return self._folder / f"{strategy}-{seed}.json"


def _inputs(protocol: Protocol, pool: LabelledPool, backbone: AnyBackbone) -> Json:
    """What decides every run beside its seed."""
    inputs: Json = {
        "pool": pool.sha256,
        "start": backbone.sha256,
        "property": protocol.property,
        "goal": protocol.goal,
        "scale": protocol.scale,
        "initial": protocol.initial,
        "batch": protocol.batch,
        "rounds": protocol.rounds,
        "cold_start": protocol.cold_start,
        "cost": protocol.cost,
        "initial_ids": protocol.initial_ids,
        "code_version": code_version(),
        "split": asdict(protocol.split) if protocol.split else None,
        "levels": [asdict(level) for level in protocol.levels],
        "label_cost": protocol.label_cost,
    }
    return _given(inputs)


def _given(settings: Json) -> Json:
    """Settings without the split and the levels where there are none, as files of older versions are."""
    later = ("split", "levels", "label_cost")
    return {name: value for name, value in settings.items() if name not in later or value}


def _change(name: str, before: Json, now: Json) -> str:
    words = [str(inputs.get(name, "nothing")) for inputs in (before, now)]
    return f"{name} {' then, '.join(w if len(w) <= 40 else w[:12] + '...' for w in words)} now"


def _sha256(inputs: Json) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()


def _seen(
    protocol: Protocol,
    pool: LabelledPool,
    backbone: AnyBackbone,
    strategies: Sequence[BacktestStrategy],
    allow: bool,
    say: Callable[[str], None],
) -> set[str]:
    """Names of the strategies whose model was trained on answers, where that is allowed."""
    _, stands_on = start_of(protocol.start)
    estimates = {s.name: [*s.estimates, *([stands_on] if stands_on and not s.is_peer else [])] for s in strategies}
    start = protocol.start_name
    cards = {start: backbone.card} | {model: _model_card(model) for own in estimates.values() for model in own}
    answers = [(pool, protocol.property)]
    answers += [
        (pool.of_level(labels), level.field) for labels, level in zip(pool.levels, protocol.levels, strict=True)
    ]
    leaks = {
        model: found
        for model, card in cards.items()
        if (found := [leak for part, property in answers for leak in find_leaks(part, property, card)])
    }
    for model, found in leaks.items():
        message = f"{model} was trained on {_words(found)}, so the backtest would know the answers"
        if not allow:
            raise CampaignError(
                f"{message}; start from a model that was not trained on them, or mark the results with --allow-seen"
            )
        say(f"warning: {message.replace('would know', 'knows')}; its runs are marked as seen")
    if start in leaks:
        return {s.name for s in strategies if s.name != "random"}
    return {name for name, own in estimates.items() if set(own) & set(leaks)}


def _model_card(folder: str) -> Json:
    """Card of the model of a lower fidelity: its own training labels and those of its backbone."""
    ensemble = load_ensemble(folder)
    seen = dict(ensemble.backbone.card.get("seen", {}))
    seen[ensemble.property] = [*seen.get(ensemble.property, ()), *ensemble.seen]
    return {"seen": seen}


def _words(leaks: Sequence[Leak]) -> str:
    more = f"; and on {len(leaks) - 3} more properties" if len(leaks) > 3 else ""
    return "; and on ".join(leak.describe() for leak in leaks[:3]) + more


def _run_all(
    protocol: Protocol,
    pool: LabelledPool,
    backbone: AnyBackbone,
    jobs: Sequence[Job],
    workers: int | None,
    say: Callable[[str], None],
) -> Iterator[BacktestRun]:
    """Runs in the order in which they finish; graphs and embeddings are made once for all."""
    if not jobs:
        return
    with tempfile.TemporaryDirectory(prefix="kappascout-backtest-") as name:
        say(f"{len(pool)} materials; making embeddings with {backbone.name}")
        make_featuriser(backbone, name).add({m.content_hash: m.crystal for m in pool.materials})
        with executor(ExecutionSettings(workers=min(workers or cores(), len(jobs)))) as run:
            yield from run.map_unordered(replay_ladder if protocol.levels else replay, jobs, protocol, pool, Path(name))


def _in_order(runs: Sequence[BacktestRun], jobs: Sequence[Job]) -> list[BacktestRun]:
    order = [(strategy.name, seed) for strategy, seed in jobs]
    return sorted(runs, key=lambda run: order.index((run.strategy, run.seed)))
