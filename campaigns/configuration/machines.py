"""Where tables are stored and work is done: ``[store]`` and ``[execution]``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, model_validator

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
