"""Machines that commands run on: this one, or one that is reached by ssh with the user's own configuration."""

from __future__ import annotations

import io
import shlex
import subprocess
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from campaigns.exceptions import ClusterError

ANSWER_WITHIN = 120.0
"""Seconds that a command may take."""
_SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=20")
# what is read of a calculation: marks of its state, inputs to compare, results; no forces, no wave functions
_FETCHED = (
    "-name entry.json -o -name POSCAR -o -name 'POSCAR-relaxed' -o -name INCAR -o -name KPOINTS -o -name 'POTCAR.*' "
    "-o -name STARTED -o -name DONE -o -name FAILED -o -name TIMES -o -name phono3py_disp.yaml "
    "-o -name 'kappa-m*.hdf5' -o -path '*/.jobs/*' -o -path '*/relax/OUTCAR'"
)


@dataclass(frozen=True)
class Answer:
    """What a command wrote, and its exit code."""

    code: int
    out: str
    error: str

    @property
    def words(self) -> str:
        """What it wrote, in one line."""
        return " ".join((self.error.strip() or self.out.strip() or f"exit code {self.code}").split())


class ThisMachine:
    """Commands of this machine, on files that the cluster shares with it."""

    name = ""

    def run(self, command: str, folder: str) -> Answer:
        """Run a shell command in a folder.

        Raises
        ------
        ClusterError
            If it does not end in time, or the folder is gone.
        """
        return _run(["bash", "-c", command], "", folder)

    def send(self, root: Path, names: Sequence[str], folder: str) -> None:
        """Nothing: files are shared."""

    def fetch(self, root: Path, names: Sequence[str], folder: str) -> None:
        """Nothing: files are shared."""


@dataclass(frozen=True)
class SshMachine:
    """Commands of another machine by OpenSSH, which never asks for a password here."""

    name: str

    def run(self, command: str, folder: str) -> Answer:
        """Run a shell command in a folder there.

        Raises
        ------
        ClusterError
            If the machine cannot be reached without a question, or does not answer in time.
        """
        return self._ssh(f"cd {shlex.quote(folder)} && {command}")

    def send(self, root: Path, names: Sequence[str], folder: str) -> None:
        """Copy these folders of ``root`` into ``folder`` there."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as archive:
            for name in names:
                archive.add(root / name, name)
        where = shlex.quote(folder)
        answer = self._ssh(f"mkdir -p {where} && tar -C {where} -xzf -", packed.getvalue())
        if answer.code:
            raise ClusterError(f"calculations could not be copied to {self.name}:{folder}: {answer.words}")

    def fetch(self, root: Path, names: Sequence[str], folder: str) -> None:
        """Copy the results of these folders from ``folder`` there into ``root``."""
        if not names:
            return
        listed = " ".join(shlex.quote(name) for name in names)
        command = (
            f"cd {shlex.quote(folder)} && find {listed} -type f \\( {_FETCHED} \\) -not -path '*/disp*' -print0 "
            "| tar --null -T - -czf -"
        )
        packed = self._ssh_bytes(command)
        with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
            archive.extractall(root, filter="data")

    def _ssh(self, command: str, given: bytes = b"") -> Answer:
        answer = _run([*_SSH, self.name, command], given)
        if answer.code == 255:
            raise ClusterError(_no_ssh(self.name, answer.words))
        return answer

    def _ssh_bytes(self, command: str) -> bytes:
        done = _completed([*_SSH, self.name, command], b"", None)
        if done.returncode:
            words = " ".join(done.stderr.decode(errors="replace").split())
            raise ClusterError(_no_ssh(self.name, words) if done.returncode == 255 else f"{self.name}: {words}")
        return done.stdout


Machine = ThisMachine | SshMachine


def machine(host: str) -> Machine:
    """The machine of ``[cluster] host``."""
    return SshMachine(host) if host else ThisMachine()


def _run(command: Sequence[str], given: str | bytes, folder: str | None = None) -> Answer:
    done = _completed(command, given.encode() if isinstance(given, str) else given, folder)
    return Answer(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


def _completed(command: Sequence[str], given: bytes, folder: str | None) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(command, input=given, cwd=folder, capture_output=True, timeout=ANSWER_WITHIN, check=False)
    except subprocess.TimeoutExpired as error:
        raise ClusterError(
            f"{command[0]} did not answer within {ANSWER_WITHIN:g} s ({command[-1][:80]}); try again when the machine "
            "is less busy"
        ) from error
    except FileNotFoundError as error:
        raise ClusterError(
            f"{error.filename} is not there; restore it, or set [cluster] folder to where it is"
        ) from error


def _no_ssh(name: str, words: str) -> str:
    return (
        f"ssh {name} failed: {words}; `ssh {name} true` must work without a question: use a key that an agent holds, "
        "and the settings of ~/.ssh/config"
    )
