"""Where tables live and work is done: ``[store]`` and ``[execution]``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, model_validator

from campaigns.configuration.section import Section

if TYPE_CHECKING:
    from engine.execution import ExecutionSettings


class StoreSection(Section):
    """Where the campaign's tables live."""

    url: str = Field(
        default="",
        description="Database URL, ${NAME} from the environment; empty means store.sqlite in the campaign directory.",
    )
    timeout: float = Field(
        default=30.0, gt=0, le=86400, description="Seconds to wait for a store that is locked or does not answer."
    )

    @model_validator(mode="after")
    def _no_password(self) -> StoreSection:
        # this file is copied, archived and kept in every round's manifest
        parts = urlsplit(self.url)
        secrets = [parts.password, *(v for k, v in parse_qsl(parts.query) if k in {"password", "sslpassword"})]
        if any(secret and not re.fullmatch(r"\$\{\w+\}", secret) for secret in secrets):
            raise ValueError("url holds a password; write ${NAME} and set that environment variable, or set PGPASSWORD")
        return self


class SlurmSection(Section):
    """Jobs that become Dask's workers; the options of ``dask_jobqueue.SLURMCluster`` by their own names."""

    queue: str = Field(default="", description="Partition; empty for the cluster's default.")
    account: str = Field(default="", description="Account that pays; empty for your default.")
    cores: int = Field(default=1, ge=1, description="Cores of a job; each runs one worker of one thread.")
    memory: str = Field(default="4 GB", min_length=1, description="Memory of a job, shared by its workers.")
    walltime: str = Field(default="01:00:00", min_length=1, description="Time limit; a job that ends is followed.")
    interface: str = Field(default="", description="Network interface that nodes reach each other by, e.g. ib0.")
    log_directory: str = Field(default="", description="Folder of the jobs' logs; empty for the current one.")
    job_extra_directives: tuple[str, ...] = Field(default=(), description="More options of sbatch, '--qos=long'.")
    job_script_prologue: tuple[str, ...] = Field(default=(), description="Shell lines before the work, module load.")


class ExecutionSection(Section):
    """Where work is done; it never changes a result."""

    backend: Literal["local", "dask"] = Field(
        default="local", description="Processes of this machine, or a Dask cluster (extra `dask`)."
    )
    workers: int = Field(
        default=0, ge=0, description="Processes of one thread each; 0: one a core here, one job on Slurm."
    )
    address: str = Field(default="", description="dask: a scheduler that runs already, tcp://host:8786.")
    slurm: SlurmSection | None = Field(default=None, description="dask: jobs of Slurm become the workers.")
    timeout: float = Field(default=300.0, gt=0, description="dask: seconds to wait for scheduler and first worker.")

    @model_validator(mode="after")
    def _one_place(self) -> ExecutionSection:
        if self.backend == "dask" and self.address and self.slurm:
            raise ValueError("address names one cluster and [execution.slurm] another; keep one")
        return self

    def settings(self) -> ExecutionSettings:
        """As the engine takes them."""
        from engine.execution import ExecutionSettings

        if self.backend == "local":
            return ExecutionSettings(workers=self.workers)
        slurm = {k: v for k, v in self.slurm.model_dump(mode="json").items() if v} if self.slurm else {}
        return ExecutionSettings("dask", self.workers, self.address, slurm, self.timeout)
