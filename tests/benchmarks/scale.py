"""What a campaign costs from ten thousand to a million crystals, written to ``tests/benchmarks/SCALE.md`` as it goes.

Crystals are real ones with other elements and strain. Of the largest pools only the embeddings are made up, real ones
with noise: making a million takes a quarter of an hour and tells no more than making ten thousand. Rates are in seconds
of the processor, so that they hold on a machine that others use as well; each part runs in a process of its own, whose
peak memory it tells. ``python -m tests.benchmarks.scale --largest 100000`` leaves the largest pools out, ``--only
rounds`` all but the rounds.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.benchmarks.crystals import write_substituted
from tests.benchmarks.measure import REPEATS, Measure, peak_gigabytes, processor_seconds

if TYPE_CHECKING:
    from campaigns.campaign import Campaign
    from db.records import MaterialRecord
    from engine.materials.crystal import Crystal

REPORT = Path(__file__).with_name("SCALE.md")
KEPT_HEADING = "## Inducing points"
"""Where the part of the report begins that other benchmarks write."""
INGESTED = 100_000
"""Crystals of an ingest, a tenth of the largest pool."""
EMBEDDED = 12_000
"""Crystals that are really embedded."""
BARE = 3_000
"""Crystals of the bare forward pass."""
LABELS = 300
FEW_LABELS = 100
BATCH = 10
LARGE_BATCH = 100
MEMBERS = 5
GOAL_RATE = 200_000
"""Candidates a second on two cores, 100,000 on each."""
LIMIT = 4.0
"""Gigabytes."""
_STORED = 20_000
_NOISE = 0.05


@dataclass(frozen=True)
class Variant:
    """One round on a pool."""

    words: str = "GP heads"
    settings: dict[str, str] = field(default_factory=dict)
    """Parts of the shipped settings, and what stands in their place."""
    labels: int = LABELS
    batch: int = BATCH
    function: str = "ucb"


PLAIN = {"# trees = true ": "trees = false "}
GP = Variant(settings=PLAIN)
WITH_TREES = Variant("GP heads and trees")
MLP = Variant("MLP heads", {'head = "gp"': 'head = "mlp"'})
UCB_100 = Variant(settings=PLAIN, batch=LARGE_BATCH)
QLOGEI_100 = Variant(settings=PLAIN, batch=LARGE_BATCH, function="qLogEI")
VARIANTS = {
    10_000: (GP,),
    100_000: (GP, Variant(settings=PLAIN, labels=FEW_LABELS), WITH_TREES, MLP, UCB_100, QLOGEI_100),
    1_000_000: (GP, MLP, UCB_100, QLOGEI_100),
}
"""Rounds on pools of each size."""


def main() -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__)
    parser.add_argument("--largest", type=int, default=max(VARIANTS), metavar="N", help="of the pools, in crystals")
    parser.add_argument("--only", choices=("ingest", "embedding", "rounds"), help="one part of it")
    arguments = parser.parse_args()
    measure(arguments.largest, arguments.only)


def measure(largest: int = max(VARIANTS), only: str | None = None) -> list[Measure]:
    """Measure embedding, first scoring, scoring again, and whole rounds by size."""
    measures: list[Measure] = []
    what = (f" --largest {largest}" if largest < max(VARIANTS) else "") + (f" --only {only}" if only else "")
    parts: dict[str, list[Callable[[], list[Measure]]]] = {
        "ingest": [partial(ingest_rates, min(INGESTED, largest // 10))],
        "embedding": [embedding, first_scoring],
    }
    for part in (part for name, group in parts.items() if only in (None, name) for part in group):
        measures += _apart(part)
        _write(measures, what)
    for n, variants in VARIANTS.items():
        if n > largest or only not in (None, "rounds"):
            continue
        with tempfile.TemporaryDirectory() as name:
            _apart(partial(_fill, Path(name), n))
            for variant in variants:
                measures += _apart(partial(round_of, Path(name), n, variant))
                _write(measures, what)
    return measures


def _apart(part: Callable[[], Any]) -> Any:
    """In a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        return executor.submit(part).result()


def ingest_rates(n: int) -> list[Measure]:
    """Compare the ingest of JSON lines with spglib alone on the same crystals."""
    from tests.benchmarks.ingest import compare

    with tempfile.TemporaryDirectory() as name:
        measures, gigabytes = compare([write_substituted(Path(name) / "made.jsonl", n)], REPEATS if n < INGESTED else 1)
    peak = "peak of the process that writes; each worker holds a chunk"
    return [*measures, Measure(f"memory of ingest, {n:,} crystals", gigabytes, LIMIT, "GB", "<= 1", peak)]


def embedding() -> list[Measure]:
    """Graphs, statistics and embeddings against MatGL's forward pass on batches that are ready."""
    import torch

    from campaigns.pool.pool import Pool, embed_pool
    from engine.execution import ExecutionSettings
    from engine.graphs.crystal_graph import build_graph, collate, pack
    from engine.learning.features.featuriser import Featuriser

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, _campaign(Path(name) / "c") as campaign:
        campaign.ingest([str(write_substituted(Path(name) / "made.jsonl", EMBEDDED))])
        backbone = campaign.backbone(campaign.configuration.model.backbone)
        pool = Pool.of(campaign.store, backbone.elements)
        graphs = [build_graph(c, backbone.cutoff) for c in islice(_crystals(campaign), BARE)]
        batches = [
            collate([graphs[i] for i in rows], backbone.node_types) for rows in pack([g.n_edges for g in graphs])
        ]
        state = [torch.zeros(batch.num_graphs, 2) for batch in batches]

        def bare() -> None:
            with torch.no_grad():
                for batch, s in zip(batches, state, strict=True):
                    backbone.body(g=batch, state_attr=s)

        def ours(folder: str, execution: ExecutionSettings | None = None) -> float:
            featuriser = Featuriser(backbone, Path(name) / folder, keep_graphs=False)
            return _with_children(lambda: list(embed_pool(campaign.store, featuriser, pool, execution)))

        taken = [(ours(f"here-{k}"), processor_seconds(bare)) for k in range(REPEATS)]
        here, rate = len(pool) / min(own for own, _ in taken), BARE / min(reference for _, reference in taken)
        start = time.perf_counter()
        apart = len(pool) / ours("apart", ExecutionSettings(workers=2))
        wall = len(pool) / (time.perf_counter() - start)
    what = f"{len(pool):,} crystals of {pool.rows.numbers('n_sites').mean():.1f} sites"
    note = "against the bare MatGL forward pass on ready batches; a processor second, whole pipeline from the store"
    loads = f"the time to start them and to load MatGL in each included; {wall:,.0f}/s on the wall"
    return [
        Measure(f"embedding {what}", here, rate, "crystals/CPU-s", ">= 0.70", note),
        Measure(f"embedding {what}, two cores", 2 * here, 1000.0, "crystals/s", ">= 1", "twice the rate of one"),
        Measure(f"embedding {what}, two processes", 2 * apart, 1000.0, "crystals/s", "", loads),
        _memory(f"embedding {what}"),
    ]


def first_scoring() -> list[Measure]:
    """Compare the first scoring of a campaign with MatGL's own loop over as many models."""
    import torch

    from tests.benchmarks.scoring import _campaign as labelled_campaign
    from tests.benchmarks.scoring import _label, _loop_rate, _rates, pool_files

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, labelled_campaign(Path(name)) as campaign:
        campaign.ingest([str(path) for path in pool_files(Path(name))])
        loop = _loop_rate(campaign)
        _label(campaign, LABELS)
        first, again = _rates(campaign, Path(name))
        what = f"{len(campaign.store.material_index()):,} crystals, {LABELS} labels"
    return [
        Measure(
            f"first scoring, {what}", first, loop, "crystals/CPU-s", ">= 25", f"predict_structure, {MEMBERS} models"
        ),
        Measure(f"scoring again, {what}", again, first, "crystals/CPU-s", "", "against the first"),
    ]


def round_of(home: Path, n: int, variant: Variant) -> list[Measure]:
    """Do one round on ``n`` materials whose embeddings are there: what each step takes, and the peak of memory."""
    import torch

    from campaigns.campaign import Campaign
    from campaigns.round.context import RoundContext
    from campaigns.round.opening import open_round
    from campaigns.round.steps import STEPS, run_steps
    from db.states import RoundState

    torch.set_num_threads(1)
    directory = home / "round"
    shutil.copytree(home / "filled", directory)
    settings = directory / "campaign.toml"
    text = settings.read_text()
    for old, new in {**variant.settings, 'function = "ucb"': f'function = "{variant.function}"'}.items():
        assert old in text, old
        text = text.replace(old, new)
    settings.write_text(text)
    with Campaign.open(directory, features=home / "features") as campaign:
        _label(campaign, n, variant.labels)
        record: list[Any] = []
        taken = {"open": _timed(lambda: record.append(open_round(campaign.workspace, variant.batch)))}
        rounds: list[RoundContext] = []
        taken["inputs"] = _timed(
            lambda: rounds.append(RoundContext.of(campaign.workspace, record[0], lambda text: None))
        )
        names = {
            RoundState.STARTED: "embedded",
            RoundState.EMBEDDED: "train",
            RoundState.TRAINED: "score",
            RoundState.SCORED: "rank",
            RoundState.RANKED: "queue",
        }
        ends = [step.after for step in STEPS[1:]] + [RoundState.QUEUED]
        for step, end in zip(STEPS, ends, strict=True):
            taken[names[step.after]] = _timed(
                lambda end=end: rounds.append(run_steps(rounds[-1], end, embedded=len(rounds) > 1))
            )
        assert len(campaign.store.queue()) == variant.batch
    shutil.rmtree(directory)
    kind = f"{n:,} rows, {MEMBERS} {variant.words}, {variant.labels} labels"
    processor, wall = taken["score"]
    steps = ", ".join(f"{step} {seconds[0]:.1f}" for step, seconds in taken.items())
    whole = sum(seconds for step, (seconds, _) in taken.items() if step != "train")
    note = f"two cores at the rate of one processor second; {n / wall:,.0f}/s on the wall"
    goal = ">= 1" if n > min(VARIANTS) and variant.words != WITH_TREES.words else ""
    ranked = f"{variant.function}, q = {variant.batch}, {kind}"
    scoring = Measure(f"scoring again, {kind}", 2 * n / processor, float(GOAL_RATE), "candidates/s", goal, note)
    return [
        *([scoring] if variant.batch == BATCH else []),
        Measure(
            f"round without training, {ranked}", whole / n * 1e6, None, "CPU-us/row", "", f"CPU-s by step: {steps}"
        ),
        _memory(f"round, {ranked}"),
    ]


def _campaign(directory: Path) -> Campaign:
    from campaigns.campaign import Campaign

    return Campaign.create(directory, warm=False, fidelity="agl", batch=BATCH, budget=1000)


def _fill(home: Path, n: int) -> None:
    """Put ``n`` materials into the store of a campaign, and their embeddings on disk."""
    from engine.learning.features.featuriser import Embedded, Featuriser
    from engine.materials.candidates import generate_candidates

    real = {c.id: c.crystal for c in islice(generate_candidates(), 1_000)}
    with _campaign(home / "filled") as campaign:
        backbone = campaign.backbone(campaign.configuration.model.backbone)
        featuriser = Featuriser(backbone, home / "features", keep_graphs=False)
        known = backbone.embed_crystals(real.values())
        spread = _NOISE * known.std(axis=0)
        records = _copies(list(real.values()))
        rng = np.random.default_rng(0)
        for start in range(0, n, _STORED):
            batch = list(islice(records, min(_STORED, n - start)))
            campaign.store.add_materials(batch)
            for first in range(0, len(batch), 1024):
                keys = [record.content_hash for record in batch[first : first + 1024]]
                rows = (start + first + np.arange(len(keys))) % len(known)
                noise = rng.normal(size=(len(keys), known.shape[1])).astype(np.float32) * spread
                featuriser.keep(Embedded(keys, (known[rows] + noise).astype(np.float32), []))


def _label(campaign: Campaign, n: int, count: int) -> None:
    """Give materials drawn at random a label that follows from their embeddings."""
    from db.records import LabelRecord
    from engine.learning.features.featuriser import Featuriser

    backbone = campaign.backbone(campaign.configuration.model.backbone)
    chosen = np.sort(np.random.default_rng(0).choice(n, count, replace=False)).tolist()
    embeddings = Featuriser(backbone, campaign.features, keep_graphs=False).embeddings([_key(row) for row in chosen])
    sums = embeddings[:, :3].sum(axis=1)
    values = 10 ** (sums / sums.mean())
    campaign.store.add_labels(
        LabelRecord(f"made-{row:07d}", "kappa_300K", float(value), "W/(m K)", "agl", source="benchmark")
        for row, value in zip(chosen, values.tolist(), strict=True)
    )


def _copies(crystals: list[Crystal]) -> Iterator[MaterialRecord]:
    """Give the same crystals over and over under names of their own."""
    from db.records import MaterialRecord

    plain = [(c.formula, c.chemical_system, len(c), c.to_dict()) for c in crystals]
    for row in iter(range(sys.maxsize)):
        formula, system, sites, structure = plain[row % len(plain)]
        yield MaterialRecord(
            f"made-{row:07d}", _key(row), formula, system, 225, sites, f"{formula}|225|{sites}", structure
        )


def _key(row: int) -> str:
    return hashlib.sha256(f"made {row}".encode()).hexdigest()[:32]


def _crystals(campaign: Campaign) -> Iterator[Crystal]:
    from engine.materials.crystal import Crystal

    ids = [key.material_id for key in campaign.store.material_index()]
    return (Crystal.from_dict(structure) for _, structure in campaign.store.structures(ids))


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the processor and of the wall."""
    start = time.perf_counter()
    processor = processor_seconds(work)
    return processor, time.perf_counter() - start


def _with_children(work: Callable[[], Any]) -> float:
    """Processor seconds of this process and of those it starts and ends."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    own = processor_seconds(work)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own + after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def _memory(what: str, note: str = "peak, against the limit") -> Measure:
    return Measure(f"memory of {what}", peak_gigabytes(), LIMIT, "GB", "<= 1", note)


def _write(measures: list[Measure], what: str) -> None:
    """Write the table as far as it has come."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("kappascout", "torch", "matgl", "numpy", "pyarrow"))
    lines = [
        "# Scale",
        "",
        f"`python -m tests.benchmarks.scale{what}`, {datetime.now(UTC):%Y-%m-%d}, "
        f"Python {platform.python_version()}, {packages}; {os.cpu_count()} cores that other programs use as well (load "
        f"{os.getloadavg()[0]:.0f}).",
        "",
        "| measure | ours | reference | unit | ratio | goal | met | note |",
        "|---|--:|--:|---|--:|--:|---|---|",
    ]
    for m in measures:
        met = {None: "", True: "yes", False: "**no**"}[m.met]
        cells = [m.name, _number(m.ours), _number(m.reference), m.unit, _number(m.ratio), m.goal, met, m.note]
        lines.append(f"| {' | '.join(cells)} |")
    _, heading, rest = (REPORT.read_text() if REPORT.is_file() else "").partition(KEPT_HEADING)
    REPORT.write_text("\n".join(lines) + "\n" + (f"\n{heading}{rest}" if heading else ""))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


if __name__ == "__main__":
    main()
