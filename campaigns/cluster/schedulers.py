"""Queueing systems through qtoolkit: options as a header, commands to submit, list and cancel, and their answers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from campaigns.cluster.hosts import Machine
from campaigns.exceptions import ClusterError
from db.states import FailureReason, JobState

if TYPE_CHECKING:
    from qtoolkit.core.data_objects import QJob
    from qtoolkit.io.base import BaseSchedulerIO

    from campaigns.configuration.machines import Options


@dataclass(frozen=True)
class Dialect:
    """What qtoolkit leaves to its users: arrays with a throttle, dependencies, and a warning before the time limit."""

    array: str
    """Line of the header for an array with {tasks} tasks; ``throttled`` at most {throttle} at a time."""
    throttled: str
    after: str
    """Line of the header for a job that begins when the jobs {ids} have ended with exit code 0."""
    between: str
    """What separates their ids."""
    task: str
    """Variable with the number of a task."""
    job: str
    """Variable with the id of a job."""
    option: str
    """Line of the header for any other option."""
    task_in_name: str = ""
    """What stands for the number of a task in the name of an output file."""
    always: tuple[str, ...] = ()
    """Lines of every header."""
    job_name: str = "job_name"
    output: str = "qout_path"
    time: str = "time"
    """Option with the time limit."""
    memory: tuple[str, ...] = ()
    """Options with amounts of memory."""


DIALECTS = {
    "slurm": Dialect(
        array="#SBATCH --array=1-{tasks}",
        throttled="#SBATCH --array=1-{tasks}%{throttle}",
        after="#SBATCH --dependency=afterok:{ids}\n#SBATCH --kill-on-invalid-dep=yes",
        between=":",
        task="SLURM_ARRAY_TASK_ID",
        job="SLURM_JOB_ID",
        option="#SBATCH --{name}={value}",
        task_in_name=".%a",
        always=("#SBATCH --signal=B:TERM@120",),
        memory=("mem", "mem-per-cpu"),
    ),
    "pbs": Dialect(
        array="#PBS -J 1-{tasks}",
        throttled="#PBS -J 1-{tasks}%{throttle}",
        after="#PBS -W depend=afterok:{ids}",
        between=":",
        task="PBS_ARRAY_INDEX",
        job="PBS_JOBID",
        option="#PBS -l {name}={value}",
        time="walltime",
        memory=("mem",),
    ),
    "sge": Dialect(
        array="#$ -t 1-{tasks}",
        throttled="#$ -t 1-{tasks}\n#$ -tc {throttle}",
        after="#$ -hold_jid {ids}",
        between=",",
        task="SGE_TASK_ID",
        job="JOB_ID",
        option="#$ -l {name}={value}",
        always=("#$ -cwd",),
        time="walltime",
    ),
    "shell": Dialect(
        array="", throttled="", after="", between="", task="NO_TASK", job="$", option="# {name} = {value}", output=""
    ),
}


@dataclass(frozen=True)
class Listed:
    """A job as the queueing system lists it; an array once for all of its tasks."""

    name: str
    is_running: bool
    seconds: float | None
    """How long it has run."""


@dataclass(frozen=True)
class JobExit:
    """How a job ended, as the queueing system knows it."""

    state: JobState
    reason: FailureReason | None = None
    message: str = ""
    exit_code: int | None = None


@dataclass(frozen=True)
class Scheduler:
    """A queueing system on a machine."""

    kind: str
    machine: Machine

    @property
    def dialect(self) -> Dialect:
        """Words of its headers."""
        return DIALECTS[self.kind]

    def __str__(self) -> str:
        """The queueing system, and its machine if that is another one."""
        return f"{self.kind} on {self.machine.name}" if self.machine.name else self.kind

    def header(self, name: str, output: str, options: Options, lines: Sequence[str] = ()) -> str:
        """Head of a job script; options that qtoolkit has no place for are written as they are."""
        interface, dialect = self._interface(), self.dialect
        template = interface.header_template
        known = {n: v for n, v in options.items() if f"$${{{n.replace('-', '_')}}}" in template}
        others = [dialect.option.format(name=n, value=v) for n, v in options.items() if n not in known]
        given = {n.replace("-", "_"): v for n, v in known.items()} | {dialect.job_name: name}
        if dialect.output:
            given[dialect.output] = output
        verbatim = [*dialect.always, *lines, *others]
        return interface.generate_header(given | ({"qverbatim": "\n".join(verbatim)} if verbatim else {})).strip()

    def submit(self, script: str, folder: str) -> str:
        """Submit a script of a folder and return the job's id.

        Raises
        ------
        ClusterError
            With the queueing system's own words, if it refuses.
        """
        interface = self._interface(output=f"{script}.out")
        answer = self.machine.run(interface.get_submit_cmd(shlex.quote(script)), folder)
        if answer.code in (126, 127):
            raise ClusterError(self._no_commands(answer.words))
        result = interface.parse_submit_output(answer.code, answer.out, answer.error)
        if not result.job_id:
            # each line of Slurm's begins with this
            words = " ".join(answer.words.replace("sbatch: error: ", "").split())
            raise ClusterError(
                f"{self} does not take the job {script}: {words}; correct [cluster] options, then submit again"
            )
        return str(result.job_id)

    def listed(self, folder: str, job_ids: Sequence[str] = ()) -> dict[str, Listed]:
        """Jobs of this user that wait or run, by id: one question.

        Parameters
        ----------
        folder
            Where the command is run.
        job_ids
            Jobs that are wanted; a queueing system lists all of the user, and processes are listed by these.

        Raises
        ------
        ClusterError
            If there is no such queueing system, or its answer cannot be read.
        """
        from qtoolkit.core.exceptions import CommandFailedError, OutputParsingError

        interface = self._interface()
        if self.kind == "shell":
            if not job_ids:
                return {}
            command = interface.get_jobs_list_cmd(list(job_ids), None)
        else:
            user = self.machine.run("id -un", folder).out.strip() if self.machine.name else _user()
            command = interface.get_jobs_list_cmd(None, user)
        answer = self.machine.run(command, folder)
        if answer.code in (126, 127):
            raise ClusterError(self._no_commands(answer.words))
        try:
            jobs = interface.parse_jobs_list_output(answer.code, answer.out, answer.error)
        except (CommandFailedError, OutputParsingError, ValueError) as error:
            raise ClusterError(
                f"{self} does not answer: {(answer.words or str(error))[:300]}; try again later"
            ) from error
        return _by_id(jobs)

    def exits(self, jobs: Mapping[str, str], folder: str) -> dict[str, JobExit]:
        """What is known of jobs that are not listed any more, by id, where the queueing system still tells.

        ``jobs`` are names by id: an id may have been given again.
        """
        if self.kind != "slurm" or not jobs:
            return {}
        # all jobs of the last minutes in one answer, where many are asked for
        which = shlex.quote(next(iter(jobs))) if len(jobs) == 1 else ""
        answer = self.machine.run(f"scontrol show job -o {which}", folder)
        ends: dict[str, list[tuple[str, int, int]]] = {}
        for line in answer.out.splitlines() if answer.code == 0 else ():
            found = re.match(
                r"JobId=(\d+)(?: ArrayJobId=(\d+))?.*?JobName=(\S+).*?JobState=(\w+).*?ExitCode=(\d+):(\d+)", line
            )
            if found and jobs.get(found[2] or found[1]) == found[3]:
                ends.setdefault(found[2] or found[1], []).append((found[4], int(found[5]), int(found[6])))
        if forgotten := [id_ for id_ in jobs if id_ not in ends]:
            listed = shlex.quote(",".join(forgotten))
            answer = self.machine.run(f"sacct -n -P -X -j {listed} -o JobID,JobName,State,ExitCode", folder)
            for line in answer.out.splitlines() if answer.code == 0 else ():
                found = re.match(r"(\d+)[^|]*\|([^|]*)\|(\w+)[^|]*\|(\d+):(\d+)", line)
                if found and jobs.get(found[1]) == found[2]:
                    ends.setdefault(found[1], []).append((found[3], int(found[4]), int(found[5])))
        words = {id_: _worst(ends[id_]) for id_ in jobs if id_ in ends}
        return {id_: word for id_, word in words.items() if word is not None}

    def largest_array(self, limit: int, folder: str) -> int:
        """Number of tasks that one array may have."""
        if self.kind != "slurm":
            return limit
        answer = self.machine.run("scontrol show config", folder)
        found = re.search(r"MaxArraySize\s*=\s*(\d+)", answer.out)
        # the largest index is one less
        return max(1, min(limit, int(found[1]) - 1)) if found else limit

    def cancel(self, job_ids: Iterable[str], folder: str) -> None:
        """Cancel jobs; those that are over stay as they are."""
        ids = list(job_ids)
        interface = self._interface()
        if self.kind == "shell":
            # the process and all that it started
            for id_ in ids:
                self.machine.run(f"pkill -TERM -P {shlex.quote(id_)}; kill -TERM {shlex.quote(id_)}", folder)
            return
        for start in range(0, len(ids), 100):
            command = f"{interface.CANCEL_CMD} {' '.join(shlex.quote(id_) for id_ in ids[start : start + 100])}"
            self.machine.run(command, folder)

    def _interface(self, output: str = "") -> BaseSchedulerIO:
        from qtoolkit.io import scheduler_mapping
        from qtoolkit.io.shell import ShellIO

        if self.kind == "shell":
            quoted = shlex.quote(output)
            return ShellIO(stdout_path=quoted, stderr_path=shlex.quote(f"{output}.err"), ps_username_strict=False)
        return scheduler_mapping[self.kind]()

    def _no_commands(self, words: str) -> str:
        where = f"on {self.machine.name}" if self.machine.name else "on this machine"
        return (
            f"no {self.kind} {where} ({words}); run this on the login node, set [cluster] host to it, or scheduler = "
            "'shell' for this machine alone"
        )


def _user() -> str:
    import getpass

    return getpass.getuser()


def _by_id(jobs: Iterable[QJob]) -> dict[str, Listed]:
    from qtoolkit.core.data_objects import QState

    running = {QState.RUNNING, QState.SUSPENDED}
    over = {QState.DONE, QState.FAILED}
    found: dict[str, Listed] = {}
    for job in jobs:
        if job.state in over:
            continue
        # tasks of an array: 12_3, 12_[4-9]; of PBS 12[3].server
        id_ = re.split(r"[_\[.]", str(job.job_id))[0]
        known = found.get(id_)
        is_running = job.state in running or (known is not None and known.is_running)
        seconds = max((s for s in (job.runtime, known.seconds if known else None) if s is not None), default=None)
        found[id_] = Listed(str(job.name), is_running, seconds)
    return found


_ENDS: Mapping[str, tuple[JobState, FailureReason | None, str]] = {
    "BOOT_FAIL": (JobState.FAILED, FailureReason.NODE_FAILED, "its node did not start"),
    "NODE_FAIL": (JobState.FAILED, FailureReason.NODE_FAILED, "its node failed"),
    "OUT_OF_MEMORY": (JobState.FAILED, FailureReason.OUT_OF_MEMORY, "it took more memory than it was given"),
    "TIMEOUT": (JobState.FAILED, FailureReason.TIMED_OUT, "it ran into its time limit"),
    "DEADLINE": (JobState.FAILED, FailureReason.TIMED_OUT, "it ran into its deadline"),
    "PREEMPTED": (JobState.FAILED, FailureReason.NODE_FAILED, "it was preempted"),
    "REVOKED": (JobState.FAILED, FailureReason.NODE_FAILED, "it was revoked"),
    "CANCELLED": (JobState.CANCELLED, FailureReason.CANCELLED, "it was cancelled"),
    "FAILED": (JobState.FAILED, FailureReason.CALCULATOR_ERROR, "it failed"),
    "COMPLETED": (JobState.ENDED, None, ""),
}
"""Ends of jobs in Slurm's words, the most telling first."""


_NOT_OVER = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "SUSPENDED", "STOPPED", "RESIZING")
"""States of jobs that go on or will begin again, in Slurm's words."""


def _worst(ends: Sequence[tuple[str, int, int]]) -> JobExit | None:
    if any(state in _NOT_OVER for state, _, _ in ends):
        return JobExit(JobState.QUEUED)
    for name, (state, reason, words) in _ENDS.items():
        for found, code, signal in ends:
            if found == name:
                how = f"exit code {code}" if not signal else f"signal {signal}"
                code_of = None if state is JobState.CANCELLED else code or signal
                return JobExit(state, reason, f"{words} ({found}, {how})" if words else "", code_of)
    return None


def seconds_of(time: object) -> float:
    """Seconds of a time limit as queueing systems write it: minutes, [D-]HH:MM:SS, [D-]HH:MM.

    Raises
    ------
    ClusterError
        If it is none.
    """
    text = str(time).strip()
    match = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", text)
    if not match:
        raise ClusterError(f"the time limit {text!r} is none; write it as HH:MM:SS")
    days, first, second, third = (int(part) if part else None for part in match.groups())
    # without days, two numbers are minutes and seconds, and one is minutes
    parts = (0, first, second) if days is None and third is None else (first, second, third)
    hours, minutes, seconds = (part or 0 for part in parts)
    return 86400.0 * (days or 0) + 3600.0 * hours + 60.0 * minutes + seconds


def longer(time: object, factor: float) -> str:
    """A time limit times a factor, as [D-]HH:MM:SS."""
    total = round(seconds_of(time) * factor)
    days, rest = divmod(total, 86400)
    clock = f"{rest // 3600:02d}:{rest // 60 % 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


def more_memory(memory: object, factor: float) -> str:
    """An amount of memory times a factor, in its own unit."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", str(memory).strip())
    if not match:
        raise ClusterError(f"the memory {memory!r} is none; write it as 64G")
    return f"{-(-float(match[1]) * factor // 1):.0f}{match[2]}"


def seconds_since(time: str) -> float:
    """Seconds from a time that this program wrote until now."""
    return (datetime.now(UTC) - datetime.fromisoformat(time)).total_seconds()
