"""Jobs of one calculation: its stages, their scripts, and the records that they leave behind."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pydantic import BaseModel, ValidationError

from campaigns.cluster.schedulers import Scheduler, longer, more_memory
from campaigns.exceptions import ClusterError
from campaigns.exchange.scripts import shipped_template
from db.states import FailureReason

if TYPE_CHECKING:
    from campaigns.configuration import Configuration
    from campaigns.configuration.machines import Options
    from campaigns.exchange.manifest import Entry

Record = TypeVar("Record", bound=BaseModel)
RECORDS = ".jobs"
"""Folder of scripts and records inside that of a calculation."""


@dataclass(frozen=True)
class Stage:
    """A part of a calculation that is one job, or one array of jobs."""

    name: str
    """``prepare``, ``forces``, ``kappa``, or ``all`` of them together."""
    arguments: tuple[str, ...]
    """Stages of ``run.sh``."""
    tasks: int = 1
    offset: int = 0
    """Number of the array's tasks that come before, in arrays that were split."""


@dataclass(frozen=True)
class JobEnd:
    """What a job wrote of itself, all tasks of an array together."""

    started_at: str | None
    ended_at: str | None
    """None while a task has no record of its end."""
    nodes: str
    exit_code: int | None
    """The first that is not 0."""
    core_hours: float
    begun: int
    """Tasks that have started."""
    missing: int
    """Tasks without a record of their end."""


def stages_of(entry: Entry, kind: str, largest_array: int) -> list[Stage]:
    """Stages of a calculation; an array longer than the queueing system takes becomes several."""
    settings = entry.settings
    if settings.phonons is None:
        return [Stage("prepare", ("preflight", "relax"))]
    first = ["preflight", *(["relax"] if settings.relax else []), *(["born"] if settings.born else []), "displace"]
    if kind == "shell" or entry.work is None:
        return [Stage("all", (*first, "forces", "kappa"))]
    supercells = entry.work.supercells
    arrays = []
    for start in range(0, supercells, largest_array):
        tasks = min(largest_array, supercells - start)
        # an array of one task is a job, which is told its number
        numbers = () if tasks > 1 else (str(start + 1),)
        arrays.append(Stage("forces", ("forces", *numbers), tasks, start))
    return [Stage("prepare", tuple(first)), *arrays, Stage("kappa", ("forces", "kappa"))]


def resources(
    configuration: Configuration, stage: str, scheduler: Scheduler, failures: Sequence[FailureReason] = ()
) -> Options:
    """Options of a stage's job, with more time or memory after failures for want of these.

    Raises
    ------
    ClusterError
        If an option is missing that the site needs, or a time limit cannot be read.
    """
    cluster, dft = configuration.cluster, configuration.dft
    common = dft.slurm if scheduler.kind == "slurm" else {}
    options = dict(cluster.options_of(stage, {name.replace("_", "-"): value for name, value in common.items()}))
    if absent := [name for name in cluster.required if name not in options]:
        raise ClusterError(
            f"the stage {stage} has no {', '.join(absent)}, which [cluster] required names; give it in [cluster] "
            f"options or [cluster] {stage}"
        )
    dialect = scheduler.dialect
    if dialect.time in options:
        factor = cluster.growth ** sum(reason is FailureReason.TIMED_OUT for reason in failures)
        if factor > 1:
            options[dialect.time] = longer(options[dialect.time], factor)
    factor = cluster.growth ** sum(reason is FailureReason.OUT_OF_MEMORY for reason in failures)
    for name in dialect.memory if factor > 1 else ():
        if name in options:
            options[name] = more_memory(options[name], factor)
    return options


def script(
    stage: Stage,
    name: str,
    folder: str,
    options: Options,
    after: Sequence[str],
    scheduler: Scheduler,
    configuration: Configuration,
) -> str:
    """Text of a job's script, submitted in the folder of the calculation."""
    dialect = scheduler.dialect
    lines, number = [], ""
    if stage.tasks > 1:
        number = dialect.task_in_name
        throttle = configuration.cluster.throttle
        form = dialect.throttled if throttle else dialect.array
        lines.append(form.format(tasks=stage.tasks, throttle=throttle))
    if after:
        lines.append(dialect.after.format(ids=dialect.between.join(after)))
    return shipped_template("job.sh.j2").render(
        header=scheduler.header(name, f"{RECORDS}/{name}{number}.out", options, lines),
        stage=stage.name,
        name=name,
        folder=folder,
        setup=configuration.dft.setup,
        arguments=" ".join(stage.arguments),
        tasks=stage.tasks,
        offset=stage.offset,
        task=dialect.task,
        job=dialect.job,
    )


class _Started(BaseModel):
    at: str
    id: str
    nodes: str
    cores: int


class _Ended(BaseModel):
    at: str
    exit_code: int
    seconds: float
    cores: int


def job_end(folder: Path, name: str, tasks: int) -> JobEnd:
    """Read the records of a job; damaged ones count as missing."""
    started = list(_records(folder, name, _Started, tasks))
    ended = list(_records(folder, name, _Ended, tasks))
    codes = [record.exit_code for record in ended]
    whole = len(ended) >= tasks
    return JobEnd(
        started_at=min((r.at for r in started), default=None),
        ended_at=max((r.at for r in ended), default=None) if whole else None,
        nodes=", ".join(sorted({r.nodes for r in started})),
        exit_code=next((code for code in codes if code), 0) if codes else None,
        core_hours=sum(r.seconds * r.cores for r in ended) / 3600,
        begun=len(started),
        missing=tasks - len(ended),
    )


def _records(folder: Path, name: str, kind: type[Record], tasks: int) -> Iterator[Record]:
    where, ending = folder / RECORDS, "started" if kind is _Started else "ended"
    paths = [where / f"{name}.{ending}"] if tasks == 1 else sorted(where.glob(f"{name}.[0-9]*.{ending}"))
    for path in paths:
        with contextlib.suppress(OSError, ValidationError):
            yield kind.model_validate_json(path.read_bytes())
