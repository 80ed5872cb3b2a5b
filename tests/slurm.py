"""A private Slurm of one node for the tests, on ports and in a folder of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = ("slurmctld", "slurmd", "sbatch", "squeue", "munged")
START_WITHIN = 60.0
CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/run/munge.sock
MpiDefault=none
ProctrackType=proctrack/linuxproc
ReturnToService=2
SlurmctldPidFile={folder}/run/slurmctld.pid
SlurmdPidFile={folder}/run/slurmd.pid
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmdSpoolDir={folder}/spool
SlurmUser=root
StateSaveLocation={folder}/state
SwitchType=switch/none
TaskPlugin=task/none
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
MaxArraySize={largest_array}
KillWait=2
PreemptMode=REQUEUE
PreemptType=preempt/partition_prio
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 OverSubscribe=FORCE:4
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=9 PreemptMode=off
"""


def missing() -> str | None:
    """Say what this machine lacks to run a Slurm, or None."""
    absent = [name for name in PROGRAMS if not _program(name)]
    if absent:
        return f"no {', '.join(absent)} (Debian packages slurmctld slurmd slurm-client munge)"
    return None if os.geteuid() == 0 else "a private Slurm needs root here"


class Slurm:
    """Its daemons, which one test session starts and stops."""

    def __init__(self, folder: Path, largest_array: int = 1001):
        self.folder = folder
        for name in ("spool", "state", "log", "run"):
            (folder / name).mkdir(parents=True)
        settings = {
            "host": socket.gethostname().split(".")[0],
            "folder": folder,
            "ports": _free_ports(2),
            "cpus": os.cpu_count() or 1,
            "largest_array": largest_array,
        }
        self.configuration = folder / "slurm.conf"
        self.configuration.write_text(CONFIGURATION.format(**settings))
        key = folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o400)

    @property
    def environment(self) -> dict[str, str]:
        """Variables with which Slurm's commands find it."""
        return {"SLURM_CONF": str(self.configuration)}

    def start(self) -> None:
        """Start the daemons; returns when the node is idle."""
        run, log = self.folder / "run", self.folder / "log"
        munge = [
            f"--key-file={self.folder}/munge.key", f"--socket={run}/munge.sock", f"--pid-file={run}/munged.pid",
            f"--log-file={log}/munged.log", f"--seed-file={run}/munged.seed", "--force",
        ]  # fmt: skip
        self._call("munged", *munge)
        self._call("slurmctld", "-f", str(self.configuration))
        deadline = time.monotonic() + START_WITHIN
        self._call("slurmd", "-f", str(self.configuration))
        while "idle" not in self.ask("sinfo", "-h", "-o", "%t", check=False):
            assert time.monotonic() < deadline, (log / "slurmctld.log").read_text()
            time.sleep(0.2)

    def stop(self) -> None:
        """End every job, then the daemons."""
        self.ask("scancel", "--user=root", check=False)
        for name in ("slurmd", "slurmctld", "munged"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
                os.kill(int((self.folder / "run" / f"{name}.pid").read_text()), signal.SIGTERM)

    def ask(self, *command: str, check: bool = True) -> str:
        """Run one of Slurm's commands."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done.stdout

    def _call(self, name: str, *arguments: str) -> None:
        program = _program(name)
        assert program is not None
        done = subprocess.run(
            [program, *arguments], env=os.environ | self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr


@contextmanager
def slurm(largest_array: int = 1001) -> Iterator[Slurm]:
    """Run a Slurm for as long as the block lasts; its folder goes with it."""
    # not pytest's own folder: a socket's path is short
    with tempfile.TemporaryDirectory(prefix="kappascout-slurm-", dir="/tmp", ignore_cleanup_errors=True) as name:
        running = Slurm(Path(name) / "s", largest_array)
        running.folder.chmod(0o755)
        running.start()
        try:
            yield running
        finally:
            running.stop()


def _program(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
