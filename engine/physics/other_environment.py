"""Energies, forces and stresses from a process of another Python environment.

The program on the other side is :mod:`engine.physics.calculator_server`; it is started when first needed, keeps its
calculator from crystal to crystal, and ends with this process. A process that dies in the middle of a calculation is
started again and asked once more; if it dies again, the calculation fails with the last lines that it wrote to standard
error. A time limit for a crystal is the caller's, who kills this process and so the other one.
"""

from __future__ import annotations

import logging
import os
import select
import shutil
import signal
import subprocess
import threading
import time
import weakref
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from engine.exceptions import PotentialError
from engine.execution import single_threaded_children
from engine.physics import calculator_server
from engine.physics.calculator_server import PROTOCOL, pack, unpack

if TYPE_CHECKING:
    from ase import Atoms
    from numpy.typing import NDArray

START_LIMIT = 600.0
"""Seconds that the other process may take to import its libraries and load the potential, and for each answer while the
potential is tested."""
_LAST_LINES = 8
_BLOCK = 1 << 20

Message = tuple[dict[str, Any], dict[str, "NDArray[Any]"]]


class _EndedError(Exception):
    """The other process died, or what it says is no message."""


class _HungError(Exception):
    """The other process did not answer in time."""


class OtherEnvironmentError(RuntimeError):
    """A calculation that the other process could not do."""


def find_python(name: str) -> str:
    """Absolute path of a Python; links are kept, since a virtual environment is known by the place of its link.

    Raises
    ------
    PotentialError
        If there is no such program.
    """
    path = Path(name).expanduser()
    found = shutil.which(path if os.sep in name else name)
    if found is None:
        raise PotentialError(
            f"there is no program {name}; give the Python of the environment that has the potential, e.g. "
            "/path/to/environment/bin/python"
        )
    return str(Path(found).absolute())


class OtherEnvironment:
    """A calculator in another environment, made from a recipe as of :func:`calculator_server.make_calculator`."""

    limit: float
    """Seconds for one answer, after which the process is killed and the calculation fails."""

    def __init__(self, python: str, recipe: Mapping[str, Any]):
        """Start the process and have it make the calculator.

        Raises
        ------
        PotentialError
            If there is no such Python, it has no ASE, the calculator cannot be made, or the process does not answer.
        """
        self.python = find_python(python)
        self.limit = START_LIMIT
        self.core_seconds = 0.0
        """Processor time of all its processes, seconds."""
        self._recipe = recipe
        self._lock = threading.Lock()
        self._process: _Process | None = None
        self._sent: dict[str, Any] = {}
        self.facts: dict[str, Any] = {}
        """Package, version and SHA-256 of the weights, and versions of Python and libraries; as the process says."""
        self._start()

    def evaluate(self, atoms: Atoms, wanted: str) -> dict[str, Any]:
        """``wanted`` (energy in eV, forces n x 3 in eV/Angstrom or stress), and what was calculated with it.

        Raises
        ------
        OtherEnvironmentError
            If the calculator raises, or its process dies twice or does not answer in time.
        """
        header, arrays = self._asked(atoms, {"kind": "evaluate", "wanted": wanted})
        energy = {"energy": header["energy"]} if "energy" in header else {}
        return energy | arrays

    def describe(self, atoms: Atoms) -> tuple[NDArray[Any], list[int]]:
        """Descriptors of the atoms (n x d), and atomic numbers that the potential knows; none if it does not tell.

        Raises
        ------
        OtherEnvironmentError
            As for :meth:`evaluate`.
        """
        header, arrays = self._asked(atoms, {"kind": "describe"})
        return arrays["descriptors"], header["elements"]

    def _asked(self, atoms: Atoms, request: Mapping[str, Any]) -> Message:
        """The answer on a crystal, of a process that is started again if it dies."""
        with self._lock:
            try:
                header, arrays = self._answer(atoms, request)
            except _EndedError as first:
                logging.getLogger(__name__).warning("%s; it is started again", first)
                try:
                    header, arrays = self._answer(atoms, request)
                except _EndedError as second:
                    raise OtherEnvironmentError(f"{second}, also when it was started again") from second
            except _HungError as error:
                raise OtherEnvironmentError(str(error)) from error
        if header["kind"] == "error":
            raise OtherEnvironmentError(f"{header['type']}: {header['message']} (in {self.python})")
        return header, arrays

    def _answer(self, atoms: Atoms, request: Mapping[str, Any]) -> Message:
        if self._process is None:
            self._start()
        assert self._process is not None
        try:
            message = self._process.ask(*self._question(atoms, request), self.limit)
        except (_EndedError, _HungError):
            self._stop()
            raise
        self.core_seconds += self._process.worked(message[0].get("core_seconds"))
        return message

    def _question(self, atoms: Atoms, request: Mapping[str, Any]) -> Message:
        """A request with what has changed since the last crystal, and the positions."""
        now: dict[str, Any] = {"numbers": atoms.numbers.tolist(), "pbc": atoms.pbc.tolist()}
        header = {name: value for name, value in now.items() if value != self._sent.get(name)}
        arrays = {"positions": atoms.positions}
        cell = atoms.cell.array
        if "cell" not in self._sent or (cell != self._sent["cell"]).any():
            arrays["cell"] = cell
        self._sent.update(now, cell=cell.copy())
        return {**request, **header}, arrays

    def _start(self) -> None:
        self._sent = {}
        self._process = _Process(self.python)
        try:
            self.facts = self._made(self._process)
        except BaseException:
            self._stop()
            raise

    def _made(self, process: _Process) -> dict[str, Any]:
        try:
            hello, _ = process.receive(START_LIMIT)
            if hello["kind"] == "error":
                raise PotentialError(
                    f"{self.python} has no ASE ({hello['message']}); install it there: {self.python} -m pip install ase"
                )
            if hello["protocol"] != PROTOCOL:
                raise PotentialError(f"{self.python} speaks protocol {hello['protocol']}, not {PROTOCOL}; update it")
            made, _ = process.ask({"kind": "make", "recipe": self._recipe}, {}, START_LIMIT)
        except (_EndedError, _HungError) as error:
            raise PotentialError(
                f"{error}; check that it is the Python of an environment with ASE and the potential"
            ) from error
        if made["kind"] == "error":
            raise calculator_server.RecipeError(made["recipe"] or "raised", made["message"])
        if self.facts and {**self.facts, "versions": 0} != {**made, "versions": 0}:
            raise PotentialError(
                f"the potential in {self.python} changed while it was in use, from {self.facts['package']} "
                f"{self.facts['version']} to {made['version']}; start again"
            )
        return made

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop()
        self._process = None


class _Process:
    """The other process, with its pipes."""

    def __init__(self, python: str):
        self._python = python
        self._worked = 0.0
        self._arrived = b""
        # -E: variables such as PYTHONPATH are meant for our own Python
        command = [python, "-E", "-u", str(Path(calculator_server.__file__).absolute()), str(os.getpid())]
        pipe = subprocess.PIPE
        with single_threaded_children():
            try:
                self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0)
            except OSError as error:
                raise PotentialError(
                    f"{python} cannot be started ({error}); give the Python of an environment"
                ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._to, self._from = self._process.stdin.fileno(), self._process.stdout.fileno()
        self._lines: deque[str] = deque(maxlen=_LAST_LINES)
        self._reader = threading.Thread(target=_drain, args=(self._process.stderr, self._lines), daemon=True)
        self._reader.start()
        weakref.finalize(self, _end, self._process)

    def ask(self, header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], limit: float) -> Message:
        """The answer to a message; raises :class:`_EndedError` and :class:`_HungError`."""
        left = memoryview(pack(header, arrays))
        try:
            while left:
                left = left[os.write(self._to, left) :]
        except OSError as error:
            raise self._ended() from error
        return self.receive(limit)

    def receive(self, limit: float) -> Message:
        """The next message."""
        until = time.monotonic() + limit

        def read(count: int) -> bytes:
            return self._read(count, limit, until)

        try:
            return unpack(read)
        except ValueError as error:
            self._process.kill()
            raise _EndedError(f"{self._python} wrote something else than answers ({error}){self._words()}") from error

    def worked(self, core_seconds: float | None) -> float:
        """Processor time since the last answer, seconds, of the time since the start that an answer tells."""
        before, self._worked = self._worked, core_seconds or self._worked
        return self._worked - before

    def stop(self) -> None:
        """Kill the process."""
        _end(self._process)

    def _read(self, count: int, limit: float, until: float) -> bytes:
        waiting = select.poll()
        waiting.register(self._from, select.POLLIN | select.POLLHUP)
        while len(self._arrived) < count:
            left = until - time.monotonic()
            if left != float("inf") and not waiting.poll(max(0.0, left) * 1000):
                raise _HungError(f"the process of {self._python} gave no answer within {limit:g} s and was killed")
            part = os.read(self._from, _BLOCK)
            if not part:
                raise self._ended()
            self._arrived += part
        wanted, self._arrived = self._arrived[:count], self._arrived[count:]
        return wanted

    def _ended(self) -> _EndedError:
        try:
            code = self._process.wait(5)
        except subprocess.TimeoutExpired:  # it closed its output, and goes on
            self._process.kill()
            code = self._process.wait()
        cause = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        self._reader.join(1)
        return _EndedError(f"the process of {self._python} died ({cause}){self._words()}")

    def _words(self) -> str:
        lines = " | ".join(line for line in self._lines if line.strip())
        return f", its last words: {lines}" if lines else ""


def _drain(stream: IO[bytes], lines: deque[str]) -> None:
    """Keep the last lines of standard error; a full pipe would stop the process."""
    with stream:
        for line in stream:
            lines.append(line.decode(errors="replace").strip())


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
