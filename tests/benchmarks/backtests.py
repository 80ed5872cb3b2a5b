"""What strategies and peers find in labelled pools, written to ``campaigns/BACKTESTS.md``.

Hours of two cores. Finished runs are kept under ``build/backtests`` and not done again; runs of other inputs (another
backbone, other defaults) are refused by name, remove them then. ``python -m tests.benchmarks.backtests KEY...`` runs
some cases only and leaves the other sections of the report as they are.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.crystals import DATA, KAPPA
from tests.benchmarks.measure import Measure

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "build" / "backtests"
REPORT = REPOSITORY / "campaigns" / "BACKTESTS.md"
SEEDS = "0,1,2,3,4"
PRIOR = "agl-prior"
"""Model of AGL's conductivities: members learn on top of it, and its estimate ranks a first batch."""
OTHERS = "phonix-others"
"""Model of three in five formulas of ``ltc_phonix``; the pool of a warm start is the other two fifths."""
POOL = "phonix-pool.jsonl.gz"
LADDER = "ladder.jsonl.gz"
"""Crystals with a first-principles value and one of AGL."""
FIRST_PRINCIPLES = ("ltc_l96", "ltc_hh143", "ltc_ksrme103", "ltc_phonix")
"""Files of the former; of a compound in several the first counts."""


@dataclass(frozen=True)
class Case:
    """One pool, one goal."""

    key: str
    title: str
    files: tuple[str, ...]
    property: str
    goal: str
    initial: int
    rounds: int
    start: str = "megnet-multiproperty"
    strategies: str = "default,gp-qLogEI,gp-top_share"
    peers: tuple[str, ...] = ("trees", "forest", "gp", "botorch-qlognei", "physbo", "baybe", "random")
    cold: bool = False
    warm: bool = False
    """The first batch is chosen by the model that the campaign begins with; plain ranking by it stands beside."""
    goals: tuple[tuple[str, int, float], ...] = ()
    """Figures that the best strategy of ours is to reach: name, labels bought by then, value."""
    seeds: str = SEEDS
    levels: tuple[str, ...] = ()
    """Lower fidelities as ``--lower-fidelity`` takes them."""
    label_cost: str = ""
    note: str = ""
    """Paragraph under the title."""

    def arguments(self, out: Path) -> list[str]:
        """Of ``kappascout backtest``; a batch is as large as the initial set."""
        from campaigns.backtest.peers import is_installed

        n = str(self.initial)
        sizes = ["--initial", n, "--batch", n, "--rounds", str(self.rounds), "--seeds", self.seeds]
        peers = [name for name in self.peers if is_installed(name)]
        files = [str(f if f.is_absolute() else DATA / f) for f in map(Path, self.files)]
        beginning = [*(["--cold-start"] if self.cold else []), *(["--warm"] if self.warm else [])]
        for level in self.levels:
            beginning += ["--lower-fidelity", level]
        beginning += ["--label-cost", self.label_cost] if self.label_cost else []
        return [
            "backtest", *files, "--property", self.property, "--goal", self.goal, *sizes, *beginning,
            "--from", self.start, "--strategy", self.strategies, *(["--against", ",".join(peers)] if peers else []),
            "--out", str(out), "--report", str(out.with_suffix(".html")),
        ]  # fmt: skip


_AGL = {"files": ("aflow_agl.jsonl.gz",), "property": KAPPA, "initial": 50, "rounds": 6}
# without BayBE: one batch of 50 from 3,406 crystals took it more than a quarter of an hour, on principal components too
_AGL_PEERS = ("trees", "forest", "gp", "botorch-qlognei", "physbo", "random")
_LTC = {
    "files": ("ltc_l96.jsonl.gz", "ltc_hh143.jsonl.gz"),
    "property": "kappa_300K_W_mK",
    "initial": 8,
    "rounds": 8,
}
_PHONIX = {
    "files": ("ltc_phonix.jsonl.gz",),
    "property": "kappa_300K_W_mK",
    "initial": 20,
    "rounds": 8,
    "strategies": "default",
    "peers": ("trees", "gp", "botorch-qlognei", "physbo", "random"),
}
KAPPA_FP = "kappa_300K_W_mK"
_LADDER_NOTE = """Crystals of L96, HH143, the kappa_SRME references and Phonix that AFLOW has too (formula, space group,
and a volume within 35 %; of several the nearest in volume). A label costs 500 core-hours by first principles and 0.5 by
AGL, as with energies by DFT; both are stated, not measured. `ladder`: a round chooses material and fidelity
(`top_share`). `single`: first principles alone. `agl-first`: all AGL values, then first principles learned on top of
them. All have the core-hours of 12 first-principles labels a round."""
_KNOWING = "megnet-multiproperty-agl"
_FOUND_AGL = (("recall_top1", 350, 0.97), ("recall_top5", 350, 0.90))
CASES = (
    Case("phonix-min", "First principles (Phonix), lowest", goal="min", **_PHONIX),
    Case("phonix-max", "First principles (Phonix), highest", goal="max", **_PHONIX),
    Case(
        "phonix-min-agl",
        "First principles (Phonix), lowest, starting from a model of AGL",
        goal="min",
        start=str(FOLDER / PRIOR),
        **{**_PHONIX, "peers": ()},
    ),
    Case(
        "phonix-max-agl",
        "First principles (Phonix), highest, starting from a model of AGL",
        goal="max",
        start=str(FOLDER / PRIOR),
        **{**_PHONIX, "peers": ()},
    ),
    Case(
        "phonix-min-warm",
        "First principles (Phonix), two fifths of the formulas, lowest, starting from a model of the others",
        goal="min",
        start=str(FOLDER / OTHERS),
        warm=True,
        **{**_PHONIX, "files": (str(FOLDER / POOL),), "rounds": 5, "peers": ()},
    ),
    Case(
        "phonix-max-warm",
        "First principles (Phonix), two fifths of the formulas, highest, starting from a model of the others",
        goal="max",
        start=str(FOLDER / OTHERS),
        warm=True,
        **{**_PHONIX, "files": (str(FOLDER / POOL),), "rounds": 5, "peers": ()},
    ),
    Case("agl-min", "AGL, 3,406 crystals, lowest", goal="min", peers=_AGL_PEERS, goals=_FOUND_AGL, **_AGL),
    Case("agl-max", "AGL, 3,406 crystals, highest", goal="max", peers=_AGL_PEERS, goals=_FOUND_AGL, **_AGL),
    Case("ltc-min", "L96 + HH143, 238 compounds, lowest, embedding knows AGL", goal="min", start=_KNOWING, **_LTC),
    Case("ltc-max", "L96 + HH143, 238 compounds, highest, embedding knows AGL", goal="max", start=_KNOWING, **_LTC),
    Case(
        "ltc-min-prior",
        "L96 + HH143, lowest, starting from a model of AGL",
        goal="min",
        start=str(FOLDER / PRIOR),
        goals=(("recall_top5", 40, 0.95), ("recall_top5", 72, 1.0)),
        **_LTC,
    ),
    Case(
        "ltc-max-prior",
        "L96 + HH143, highest, starting from a model of AGL",
        goal="max",
        start=str(FOLDER / PRIOR),
        goals=(("acceleration_80", 72, 8.0),),
        **_LTC,
    ),
    Case(
        "ltc-min-cold",
        "L96 + HH143, lowest, starting from a model of AGL, with our own first batch",
        goal="min",
        start=str(FOLDER / PRIOR),
        cold=True,
        strategies=f"default,{FOLDER / 'prior-first.toml'}",
        peers=(),
        goals=(("recall_top5", 32, 1.0),),
        **_LTC,
    ),
    Case(
        "ladder-min",
        "First principles and AGL, 224 crystals, lowest, with a budget of core-hours",
        files=(str(FOLDER / LADDER),),
        property=KAPPA_FP,
        goal="min",
        initial=12,
        rounds=4,
        seeds="0,1",
        strategies="default",
        peers=(),
        levels=(f"agl={KAPPA}:0.5",),
        label_cost="500",
        note=_LADDER_NOTE,
    ),
)


def measure(keys: Sequence[str] = ()) -> list[Measure]:
    """Run what has not been run, write the report, and hold the figures against the goals; of all cases, or of some."""
    if not (DATA / "aflow_agl.jsonl.gz").is_file():
        return [Measure("backtests", None, None, "", note=f"no data in {DATA}")]
    FOLDER.mkdir(parents=True, exist_ok=True)
    cases = [case for case in CASES if not keys or case.key in keys]
    if any(not case.levels for case in cases):
        _make_prior()
        _make_others()
    if any(case.levels for case in cases):
        _make_ladder()
    measures = []
    for case in cases:
        out = FOLDER / f"{case.key}.json"
        _kappascout(case.arguments(out))
        result = json.loads(out.read_text())
        _write_section(case, _section(case, result, out))
        measures += [_against_goal(case, result, *goal) for goal in case.goals]
        measures.append(_against_single(case, result) if case.levels else _against_peers(case, result))
    return [m for m in measures if m is not None]


def _write_section(case: Case, text: str) -> None:
    """Put a case's section into the report in the place of its former one, all sections in the order of the cases."""
    old = REPORT.read_text() if REPORT.is_file() else ""
    sections = {part.split("\n", 1)[0]: f"## {part}".rstrip() + "\n" for part in old.split("\n## ")[1:]}
    sections[case.title] = text.rstrip() + "\n"
    REPORT.write_text("\n".join([_head(), *(sections[c.title] for c in CASES if c.title in sections)]))


def _make_prior() -> None:
    """Train the model of the estimates, and write the strategy that begins with them."""
    if not (FOLDER / PRIOR / "ensemble.json").is_file():
        data = str(DATA / "aflow_agl.jsonl.gz")
        _kappascout(["train", data, "--property", KAPPA, "--strategy", "frozen", "--out", str(FOLDER / PRIOR)])
    (FOLDER / "prior-first.toml").write_text(
        f'[acquisition]\nfirst_batch = "estimate"\nfirst_batch_estimate = "{PRIOR}"\n'
    )


def _make_others() -> None:
    """Cut ``ltc_phonix`` by formula into a pool and a training set, and train a model on the latter."""
    if (FOLDER / OTHERS / "ensemble.json").is_file():
        return
    training = FOLDER / "phonix-others.jsonl.gz"
    with (
        gzip.open(DATA / "ltc_phonix.jsonl.gz", "rt") as source,
        gzip.open(FOLDER / POOL, "wt") as pool,
        gzip.open(training, "wt") as others,
    ):
        for line in source:
            digest = hashlib.sha256(json.loads(line)["formula"].encode()).hexdigest()
            (pool if int(digest, 16) % 5 < 2 else others).write(line)
    starts = ["--from", "megnet-multiproperty-agl", "--from", "megnet-taught"]
    arguments = ["--property", "kappa_300K_W_mK", *starts, "--strategy", "none", "--out", str(FOLDER / OTHERS)]
    _kappascout(["train", str(training), *arguments])


def _make_ladder() -> None:
    """Join first-principles values with those of AFLOW's AGL by formula, space group and volume."""
    if (FOLDER / LADDER).is_file():
        return
    agl: dict[tuple[str, int], list[Any]] = {}
    for name in ("aflow_agl", "aflow_agl_more"):
        for material, _ in _materials(name):
            if KAPPA in material.properties:
                agl.setdefault((material.formula, material.spacegroup), []).append(material)
    joined: dict[tuple[str, int], dict[str, Any]] = {}
    for name in FIRST_PRINCIPLES:
        for material, record in _materials(name):
            key = (material.formula, material.spacegroup)
            ratios = {abs(np.log(_volume(m) / _volume(material))): m for m in agl.get(key, ())}
            if key not in joined and ratios and min(ratios) < np.log(1.35):
                value = ratios[min(ratios)].properties[KAPPA]
                properties = {KAPPA_FP: material.properties[KAPPA_FP], KAPPA: value}
                joined[key] = record | {"properties": properties}
    with gzip.open(FOLDER / LADDER, "wt") as handle:
        handle.writelines(json.dumps(record) + "\n" for record in joined.values())


def _materials(name: str) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Materials of a file of the data that can be read, each with its record."""
    from engine.materials.crystal import Material
    from engine.materials.loading import load

    path = DATA / f"{name}.jsonl.gz"
    with gzip.open(path, "rt") as lines:
        records = {record["id"]: record for record in map(json.loads, lines)}
    for part in load([path], workers=1):
        yield from ((m, records[m.id]) for m in part if isinstance(m, Material))


def _volume(material: Any) -> float:
    return float(material.crystal.volume / len(material.crystal))


def _ranking(case: Case) -> list[str]:
    """Recall of the best 5 % of a pool by plain ranking with the model that a campaign begins with."""
    table = FOLDER / f"{case.key}-ranking.csv"
    _kappascout(["predict", str(FOLDER / OTHERS), str(FOLDER / POOL), "--out", str(table)])
    with table.open() as handle:
        predicted = {row["id"]: float(row["mean"]) for row in csv.DictReader(handle)}
    with gzip.open(FOLDER / POOL, "rt") as source:
        found = {r["id"]: r["properties"][case.property] for r in map(json.loads, source)}
    sign = 1 if case.goal == "min" else -1
    ids = [id_ for id_ in found if id_ in predicted]
    best = set(sorted(ids, key=lambda id_: sign * found[id_])[: round(0.05 * len(ids))])
    order = sorted(ids, key=lambda id_: sign * predicted[id_])
    counts = range(case.initial, case.initial * (case.rounds + 1) + 1, case.initial)
    recalls = ", ".join(f"{len(best & set(order[:n])) / len(best):.2f} at {n}" for n in counts)
    return [f"Plain ranking by the model, nothing learned: {recalls}.", ""]


def _kappascout(arguments: Sequence[str]) -> None:
    sys.stderr.write(f"{_command(arguments)}\n")
    subprocess.run([sys.executable, "-m", "campaigns", *arguments], check=True, stdout=subprocess.DEVNULL)


def _command(arguments: Sequence[str]) -> str:
    """As one would type it beside the repository."""
    text = shlex.join(arguments).replace(f"{REPOSITORY}/", "")
    return f"kappascout {text.replace(f'{REPOSITORY.parent}/', '../')}"


def _head() -> str:
    return f"""# What backtests find

Written by `python -m tests.benchmarks backtests`, each section on the date below it (2026-11-21
where there is none: Matern kernels alone, `beta = 1`, Gaussian intervals). Means ± standard deviations over
seeds {SEEDS.replace(",", ", ")}; the first labels are drawn by `numpy.random.default_rng(seed)`. Strategies of ours are
campaigns with the production code, `default` with the settings of a new campaign. Peers see the same embedding
(composition statistics, readout, trunk) and the acquired labels, nothing else. EF: recall over that of random choice.
AF50, AF80: labels that random choice needs for half or 80 % of the best 5 %, over those needed. Regret in decades.
The best 1 % are at least 10 rows: of 238 compounds the best 10 stand for it.
Seconds are of one thread's processor time. The data are not part of the product.
"""


def _section(case: Case, result: dict[str, Any], out: Path) -> str:
    from campaigns.backtest.curves import readable
    from engine.metrics.discovery import top_words

    versions = ", ".join(f"{name} {number}" for name, number in result["versions"].items())
    lines = [
        f"## {case.title}",
        "",
        *([case.note, ""] if case.note else []),
        *_markdown_table(readable(result["summary"])),
        "",
        f"Recall of the {top_words(result['summary'][0]['pool'], 5)} by "
        f"{'core-hours spent' if case.levels else 'labels bought'}:",
        "",
        *_by_labels(result["bands"], "cost" if case.levels else "labels"),
        "",
        *(_ranking(case) if case.warm else []),
        *_coverage(result["runs"]),
        "```",
        _command(case.arguments(out)),
        "```",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}; {versions}; start {Path(case.start).name}.",
        "",
    ]
    return "\n".join(lines)


def _markdown_table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines of a Markdown table of rows of words."""
    head = list(rows[0])
    rule = ["---" if name == "strategy" else "--:" for name in head]
    return [f"| {' | '.join(line)} |" for line in (head, rule, *([row[name] for name in head] for row in rows))]


def _by_labels(bands: Sequence[dict[str, Any]], across: str = "labels") -> list[str]:
    labels = bands[0]["labels"] if across == "labels" else [f"{hours:,.0f}" for hours in bands[0][across]["mean"]]
    head = ["strategy", *map(str, labels)]
    rows = [[f"`{b['strategy']}`", *(f"{mean:.2f}" for mean in b["recall_top5"]["mean"])] for b in bands]
    return [f"| {' | '.join(line)} |" for line in (head, ["---", *["--:"] * len(labels)], *rows)]


def _coverage(runs: Sequence[dict[str, Any]]) -> list[str]:
    """Share of the labels of each round that its 90 % intervals held, mean and range over seeds."""
    names = dict.fromkeys(run["strategy"] for run in runs if "coverage_90" in run["rounds"][-1]["judgement"])
    lines = []
    for name in names:
        own = [run for run in runs if run["strategy"] == name]
        cells = []
        for number in range(1, len(own[0]["rounds"])):
            found = [run["rounds"][number]["judgement"].get("coverage_90") for run in own]
            held = [100 * share for share in found if share is not None]
            cells.append(f"{np.mean(held):.0f} ({min(held):.0f}-{max(held):.0f})" if held else "–")
        lines.append(f"Labels inside 90 % intervals, `{name}`, % by round (range over seeds): {', '.join(cells)}.")
        lines.append("")
    return lines


def _against_goal(case: Case, result: dict[str, Any], name: str, labels: int, value: float) -> Measure:
    """Hold the best strategy of ours against a goal."""
    from campaigns.backtest.peers import PEERS

    if name.startswith("acceleration"):
        found = {row["strategy"]: row[name] or 0.0 for row in result["summary"]}
    else:
        found = {b["strategy"]: b[name]["mean"][b["labels"].index(labels)] for b in result["bands"]}
    ours = {strategy: v for strategy, v in found.items() if strategy not in PEERS}
    best = max(ours, key=lambda strategy: ours[strategy])
    return Measure(f"{case.title}: {name} at {labels} labels", ours[best], value, "", ">= 1", best)


def _against_single(case: Case, result: dict[str, Any]) -> Measure:
    """Hold the core-hours in which the ladder finds the best 5 % against half of those of the best single level.

    Of the largest part of them that all runs of both find.
    """
    rows = {row["strategy"]: row for row in result["summary"]}
    both = [rows["ladder"], rows["single"]]
    percent = next((p for p in (100, 80, 50) if all(row[f"hours_to_{p}_reached"] == row["seeds"] for row in both)), 50)
    ours, theirs = (row[f"hours_to_{percent}"] for row in both)
    return Measure(f"{case.title}: core-hours to {percent} % of the best 5 %", ours, theirs, "core-hours", "<= 0.5")


def _against_peers(case: Case, result: dict[str, Any]) -> Measure | None:
    """Hold the recall of the best 5 %, averaged over rounds, against the best peer's."""
    from campaigns.backtest.peers import PEERS

    areas = {b["strategy"]: float(np.mean(b["recall_top5"]["mean"][1:])) for b in result["bands"]}
    ours = max((v, s) for s, v in areas.items() if s not in PEERS)
    theirs = max(((v, s) for s, v in areas.items() if s in PEERS), default=None)
    if theirs is None:
        return None
    note = f"{ours[1]} against {theirs[1]}"
    return Measure(f"{case.title}: recall of best 5 %, mean of rounds", ours[0], theirs[0], "", ">= 1", note)


if __name__ == "__main__":
    for found in measure(sys.argv[1:]):
        print(found)
