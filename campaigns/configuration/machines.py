"""Where tables are stored and work is done: ``[store]``, ``[execution]`` and ``[cluster]``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator, model_validator

from campaigns.configuration.section import Section

if TYPE_CHECKING:
    from engine.execution import ExecutionSettings


class StoreSection(Section):
    """Where the campaign's tables are kept."""

    url: str = Field(
        default="",
        examples=["postgresql+psycopg://user:${PASSWORD}@host/database"],
        description="URL of a database; without it, store.sqlite in this directory. ${NAME} is read from the "
        "environment, "
        "where passwords belong.",
    )
    timeout: float = Field(
        default=30.0, gt=0, le=86400, description="Seconds to wait for a store that is locked or does not answer."
    )

    @model_validator(mode="after")
    def _no_password(self) -> StoreSection:
        # this file is copied, archived and stored in every round's manifest
        parts = urlsplit(self.url)
        secrets = [parts.password, *(v for k, v in parse_qsl(parts.query) if k in {"password", "sslpassword"})]
        if any(secret and not re.fullmatch(r"\$\{\w+\}", secret) for secret in secrets):
            raise ValueError("url holds a password; write ${NAME} and set that environment variable, or set PGPASSWORD")
        return self


class SlurmSection(Section):
    """dask: Slurm jobs that become the workers; options of dask_jobqueue.SLURMCluster."""

    queue: str = Field(default="", examples=["standard"], description="Partition; empty: the cluster's default.")
    account: str = Field(default="", examples=["abc"], description="Account that is charged; empty: your default.")
    cores: int = Field(default=1, ge=1, description="Cores of a job; each runs one worker of one thread.")
    memory: str = Field(default="4 GB", min_length=1, description="Memory of a job, shared by its workers.")
    walltime: str = Field(default="01:00:00", min_length=1, description="Time limit; a job that ends is replaced.")
    interface: str = Field(
        default="", examples=["ib0"], description="Network interface between the nodes; empty: Dask's choice."
    )
    log_directory: str = Field(
        default="", examples=["logs"], description="Folder of the jobs' logs; empty: the current one."
    )
    job_extra_directives: tuple[str, ...] = Field(
        default=(), examples=[("--qos=long",)], description="More options of sbatch."
    )
    job_script_prologue: tuple[str, ...] = Field(
        default=(), examples=[("module load python",)], description="Shell lines before the work starts."
    )


class ExecutionSection(Section):
    """Where the work is done; this never changes a result."""

    backend: Literal["local", "dask"] = Field(
        default="local",
        description="local: processes of this machine; dask: a cluster (pip install kappascout[dask]).",
    )
    workers: int = Field(
        default=0, ge=0, description="Processes of one thread each; 0: one for each core here, one job on Slurm."
    )
    address: str = Field(
        default="", examples=["tcp://host:8786"], description="dask: a scheduler that is already running."
    )
    slurm: SlurmSection | None = Field(default=None, description="dask: Slurm jobs become the workers.")
    timeout: float = Field(
        default=300.0, gt=0, description="dask: seconds to wait for the scheduler and the first worker."
    )

    @model_validator(mode="after")
    def _one_place(self) -> ExecutionSection:
        if self.backend == "dask" and self.address and self.slurm:
            raise ValueError("address names one cluster and [execution.slurm] another; keep one")
        return self

    def settings(self) -> ExecutionSettings:
        """The settings as the engine takes them."""
        from engine.execution import ExecutionSettings

        if self.backend == "local":
            return ExecutionSettings(workers=self.workers)
        slurm = {k: v for k, v in self.slurm.model_dump(mode="json").items() if v} if self.slurm else {}
        return ExecutionSettings("dask", self.workers, self.address, slurm, self.timeout)


Options = dict[Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.-]*$")], str | int]
"""Options of a queueing system by their long names, without dashes in front."""


class ClusterSection(Section):
    """Where `kappascout submit` and `kappascout watch` have calculations done."""

    scheduler: Literal["slurm", "pbs", "sge", "shell"] = Field(
        default="slurm",
        description="Queueing system: slurm | pbs | sge; shell: processes of one machine, one calculation after "
        "another.",
    )
    host: str = Field(
        default="",
        pattern=r"^([^-\s][^\s]*)?$",
        examples=["login.site.org"],
        description="Machine whose queueing system is used, as `ssh` knows it (keys, no password); empty: this one.",
    )
    folder: str = Field(
        default="calculations",
        min_length=1,
        examples=["/scratch/me/kappa"],
        description="Folder of the calculations: relative to this directory, or absolute; with host an absolute one "
        "there.",
    )
    options: Options = Field(
        default_factory=dict,
        examples=[{"time": "24:00:00", "nodes": 1, "ntasks-per-node": 32, "account": "abc"}],
        description="Options of every job, by the long names of the queueing system; without any those of [dft] slurm.",
    )
    prepare: Options = Field(
        default_factory=dict,
        examples=[{"time": "12:00:00"}],
        description="Further options of the stage prepare: checks, relaxation, Born charges, displacements.",
    )
    forces: Options = Field(
        default_factory=dict,
        examples=[{"time": "02:00:00"}],
        description="Further options of the stage forces, an array with a task for each displaced supercell.",
    )
    kappa: Options = Field(
        default_factory=dict,
        examples=[{"nodes": 1, "mem": "64G"}],
        description="Further options of the stage kappa: force constants and conductivity by phono3py.",
    )
    required: tuple[str, ...] = Field(
        default=(), examples=[("time", "account")], description="Options that the site wants in every job."
    )
    throttle: int = Field(default=0, ge=0, description="Tasks of one array that run at a time; 0: no limit.")
    max_array: int = Field(
        default=1000, ge=1, description="Tasks of one array at most; for Slurm also what its MaxArraySize allows."
    )
    max_jobs: int = Field(
        default=0, ge=0, description="Calculations in the queueing system at a time; 0: no limit, for shell one."
    )
    growth: float = Field(
        default=2.0, ge=1, le=10, description="Factor on time or memory when these were what it lacked."
    )
    lost_after: float = Field(
        default=300.0,
        ge=0,
        description="Seconds without a sign of life before a job that the queueing system does not know is vanished.",
    )
    poll: float = Field(default=60.0, gt=0, description="Seconds between two looks at the queueing system.")

    @field_validator("options", "prepare", "forces", "kappa")
    @classmethod
    def _of_the_users(cls, given: Options) -> Options:
        taken = sorted({name.replace("_", "-") for name in given} & _SET_BY_SUBMIT)
        if taken:
            raise ValueError(f"{', '.join(taken)} is set by `kappascout submit`; leave it out")
        return {name.replace("_", "-"): value for name, value in given.items()}

    def options_of(self, stage: str, common: Options) -> Options:
        """Options of a stage; ``common`` where no options of all jobs are given."""
        own: dict[str, Options] = {"prepare": self.prepare, "forces": self.forces, "kappa": self.kappa}
        return (self.options or common) | own.get(stage, {})


_SET_BY_SUBMIT = {"array", "dependency", "job-name", "output", "error", "signal", "chdir", "kill-on-invalid-dep"}
