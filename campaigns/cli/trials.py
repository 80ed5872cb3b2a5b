"""Verbs that measure strategies and transfer on labelled data."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from campaigns.cli.options import (
    Field,
    Goal,
    OutFormat,
    PotentialPython,
    Quiet,
    Scale,
    Split,
    Start,
    TailAbove,
    TailBelow,
    Workers,
    one_start,
    split_settings,
    starts,
)
from campaigns.output import Format, Progress, emit, message


def backtest(
    files: Annotated[list[str], typer.Argument(metavar="FILE", help="Labelled crystals.")],
    property: Field,
    goal: Goal,
    batch: Annotated[int, typer.Option(min=1, help="Labels in each round.")],
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds.")],
    initial: Annotated[
        int | None, typer.Option(min=1, help="Labels before the first round; one batch if not given, with --warm.")
    ] = None,
    seeds: Annotated[str, typer.Option(help="Random seeds of the starts, separated by commas.")] = "0",
    strategy: Annotated[
        str,
        typer.Option(
            help="Comma-separated: default (a new campaign's settings), gp-ucb, gp-qLogEI, mlp-ucb, full-ucb, ..., "
            r"a campaign.toml (\[model] and \[acquisition] count), random, extra-trees."
        ),
    ] = "default",
    against: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated peers on the same embedding: random, trees, forest, gp, botorch-qlognei, "
            "baybe, baybe-pca, physbo."
        ),
    ] = None,
    initial_ids: Annotated[Path | None, typer.Option(help='JSON file of initial ids: {"SEED": ["ID", ...]}.')] = None,
    cold_start: Annotated[
        bool, typer.Option("--cold-start", help="kappascout's strategies choose their initial materials themselves.")
    ] = False,
    cost: Annotated[
        str | None, typer.Option(metavar="FIELD", help="Field with the cost of each label; adds curves by cost.")
    ] = None,
    lower_fidelity: Annotated[
        list[str] | None,
        typer.Option(
            "--lower-fidelity",
            metavar="NAME=FIELD:COST",
            help="A cheaper fidelity of the property, its field, and the core-hours of a label (or the field with "
            "them); the cheapest first, each with its own --lower-fidelity. Rounds then have the core-hours of --batch "
            "labels, and buy labels of any fidelity.",
        ),
    ] = None,
    label_cost: Annotated[
        str | None,
        typer.Option(
            "--label-cost",
            metavar="COST",
            help="Core-hours of a label of --property, or the field with them; with --lower-fidelity.",
        ),
    ] = None,
    warm: Annotated[
        bool,
        typer.Option(
            "--warm",
            help="Begin with a trained model (--from, or the shipped kappa-300K), which chooses the first labels.",
        ),
    ] = False,
    split: Split = None,
    tail_above: TailAbove = None,
    tail_below: TailBelow = None,
    start: Start = None,
    scale: Scale = None,
    members: Annotated[int, typer.Option(min=2, help="Members of the ensemble.")] = 5,
    allow_seen: Annotated[
        bool, typer.Option("--allow-seen", help="Accept a model that was trained on answers; its runs are marked.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="JSON file to write; it grows with every finished run, and a second start continues it."),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="HTML page to write: curves with confidence bands.")
    ] = None,
    workers: Workers = None,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Replay labelled data as campaigns; prints what each strategy finds, mean and deviation over seeds.

    With --split initial labels are of rows on its training side alone, and the candidates, and the best that are to be
    found, are the rows on its test side: with tail the values beyond all initial labels, low ones for --goal min.
    """
    import campaigns.backtest as bt
    from campaigns.creation import WARM_START
    from campaigns.goals import default_scale
    from engine.learning.backbones.backbone import DEFAULT_BACKBONE

    if initial is None and not warm:
        raise typer.BadParameter("give --initial, the number of labels before the first round, or --warm")
    if split and (warm or cold_start):
        raise typer.BadParameter(
            "--split draws the initial labels from its training side, --warm and --cold-start choose them themselves; "
            "keep one"
        )
    if (goal == "min" and tail_below is not None) or (goal == "max" and tail_above is not None):
        raise typer.BadParameter(
            "--goal min finds low values and goes with --tail-above, --goal max high ones and goes with --tail-below"
        )
    if bool(lower_fidelity) != (label_cost is not None):
        raise typer.BadParameter("--lower-fidelity and --label-cost are given together; add the other one")
    if lower_fidelity and (split or warm or cold_start or cost):
        raise typer.BadParameter(
            "--lower-fidelity has a budget of core-hours and drawn initial labels; leave out --split, --warm, "
            "--cold-start and --cost"
        )
    protocol = bt.Protocol(
        files=tuple(files),
        property=property,
        goal=goal,
        initial=initial or batch,
        batch=batch,
        rounds=rounds,
        seeds=bt.parse_seeds(seeds),
        scale=scale or default_scale(property),
        start=starts(start) or (WARM_START if warm else DEFAULT_BACKBONE),
        members=members,
        initial_ids=bt.read_initial_ids(initial_ids) if initial_ids else None,
        cold_start=cold_start or warm,
        cost=cost,
        split=split_settings(split, tail_above, tail_below, goal),
        levels=bt.parse_levels(lower_fidelity or (), property),
        label_cost=None if label_cost is None else bt.parse_cost(label_cost, "--label-cost"),
    )
    strategies = bt.parse_strategies(strategy)
    if lower_fidelity:
        if len(strategies) > 1:
            raise typer.BadParameter("--lower-fidelity compares ways to spend core-hours of one --strategy; keep one")
        strategies = bt.ladder_strategies(strategies[0], protocol)
    strategies = bt.join(strategies, bt.parse_against(against) if against else [])
    with Progress(quiet) as progress:
        runs = bt.backtest(
            protocol, strategies, out=out, workers=workers, allow_seen=allow_seen, report=report, say=progress.say
        )
    rows = bt.summarise(runs)
    emit(bt.readable(rows) if format is Format.TABLE else rows, format, "at the end, mean ± deviation over seeds")
    if report:
        message(f"curves in {report}")


def study(
    name: Annotated[
        Literal["paraisite", "pairwise", "multiproperty", "fidelity", "phonix", "srme"],
        typer.Argument(metavar="NAME", help="Study: paraisite, pairwise, multiproperty, fidelity, phonix or srme."),
    ],
    data: Annotated[
        Path,
        typer.Option(
            "--data",
            metavar="FOLDER",
            help="Labelled crystals, files found by the beginning of their names: aflow_agl, ltc_l96, ltc_hh143, "
            "ltc_phonix, ltc_ksrme103, tl_formation_energy, tl_band_gap, tl_shear_modulus, tl_phonon_peak.",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FOLDER", help="Where NAME.md, NAME.json and the work are kept.")
    ] = Path("studies"),
    start: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="MODEL",
            help="paraisite: a backbone that has learned formation energies, in place of that file; "
            "fidelity: one that has seen no conductivity; phonix: one that has seen none of first principles.",
        ),
    ] = None,
    split: Annotated[
        Literal["formula", "space_group", "tail"] | None,
        typer.Option(
            "--split",
            help="pairwise, multiproperty: test rows of formulas (as without it) or space groups that no training row "
            "has, or the lowest values.",
        ),
    ] = None,
    potential: Annotated[
        str,
        typer.Option(
            "--potential",
            metavar="POTENTIAL",
            help="srme: the interatomic potential to measure against first principles, as in `kappascout estimate`.",
        ),
    ] = "",
    potential_python: PotentialPython = "",
    quick: Annotated[bool, typer.Option("--quick", help="Minutes instead of an hour, with rougher figures.")] = False,
    format: OutFormat = Format.TABLE,
    quiet: Quiet = False,
) -> None:
    """Measure what transfer learning brings on your data, or an interatomic potential; continues where it stopped."""
    from campaigns.exceptions import CampaignError
    from campaigns.studies.study import run_study
    from engine.physics.calculator_specs import with_python

    if potential_python and not potential:
        raise CampaignError("--potential-python is for a potential; name it by --potential, e.g. sevennet:7net-0")
    spec = with_python(potential, potential_python) if potential_python else potential
    with Progress(quiet) as progress:
        result, path = run_study(
            name, data, out, progress.say, quick=quick, start=one_start(start), split=split, potential=spec
        )
    emit(result.summary(), format, "mean")
    message(f"tables written to {path}")
