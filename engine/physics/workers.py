"""Many calculations in separate processes: one thread each, a time limit, results in order of completion.

If a process dies, hangs or raises, only its current crystal fails, with a reason.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from multiprocessing import connection, current_process, get_context
from typing import TYPE_CHECKING, Any

from engine.exceptions import PotentialError
from engine.execution import single_threaded_children
from engine.physics.devices import children_on, kind_of
from engine.physics.outcome import Calculated, Failed, Outcome

if TYPE_CHECKING:
    from engine.execution import Run
    from engine.materials.crystal import Crystal
    from engine.physics.potential import Potential

Calculation = Callable[["Crystal", "Potential"], Outcome]
"""Function of a crystal and a potential; can be pickled."""

STARTUP_LIMIT = 600.0
"""Seconds that a process may take to import its libraries and load the potential."""
_KILLED = (-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP)
"""Exit codes of a process that somebody ended, such as the kernel where memory is short; not of one that crashed."""


@dataclass(frozen=True)
class Finished:
    """Key and outcome of one crystal."""

    key: str
    outcome: Outcome
    wall_seconds: float


def calculate_all(
    crystals: Iterable[tuple[str, Crystal]],
    calculation: Calculation,
    potential: str,
    workers: int = 1,
    time_limit: float = math.inf,
    devices: Sequence[str] = (),
) -> Generator[Finished, None, None]:
    """Calculate crystals in parallel; yields outcomes in order of completion.

    Parameters
    ----------
    crystals
        Key and crystal; consumed lazily.
    calculation
        Function for each crystal; exceptions, and values that are not positive and finite, are failures.
    potential
        Name as of :func:`load_potential`; every process loads it once.
    workers
        Processes.
    time_limit
        Wall seconds for one crystal; a calculation that takes longer is killed and has timed out.
    devices
        One process for each of these (``cuda:0``, ``cuda:1``, ``cpu``) instead of ``workers``, with the potential on
        it; a process in place of one that died has its device.

    Raises
    ------
    PotentialError
        If the potential cannot be loaded, or not on the device.
    """
    free = list(devices) or [""] * workers
    waiting = iter(crystals)
    pool: list[_Worker] = []
    next_one = next(waiting, None)
    try:
        while next_one is not None or pool:
            while next_one is not None and free:
                pool.append(_Worker.start(calculation, potential, free.pop(0)))
                pool[-1].take(*next_one)
                next_one = next(waiting, None)
            for worker in _ready(pool):
                finished = worker.finish(time_limit)
                if finished is None:
                    continue
                if worker.alive and next_one is not None:
                    worker.take(*next_one)
                    next_one = next(waiting, None)
                else:
                    worker.stop()
                    pool.remove(worker)
                    free.append(worker.device)
                yield finished
    finally:
        for worker in pool:
            worker.stop()


def calculate_on(
    run: Run,
    crystals: Iterable[tuple[str, Crystal]],
    calculation: Calculation,
    potential: str,
    time_limit: float = math.inf,
) -> Iterator[Finished]:
    """The same as :func:`calculate_all`, on the workers of ``run``, with the same numbers.

    Each calculation runs in a separate process started by the worker, so that its death or time limit affects no other;
    the potential, which every worker must find under the same name or path, is loaded for each crystal.

    Raises
    ------
    PotentialError
        If a worker cannot load the potential.
    ExecutionError
        If the workers are lost.
    """
    return run.map_unordered(_calculate_one, crystals, calculation, potential, time_limit)


@dataclass(eq=False)
class _Worker:
    """A process, the pipe to it, and the crystal it works on."""

    process: Any
    pipe: connection.Connection
    device: str = ""
    key: str = ""
    crystal: Any = field(default=None, repr=False)
    loaded: bool = False
    since: float = 0.0
    """Time at which it got its crystal, or was started if it still loads."""

    @classmethod
    def start(cls, calculation: Calculation, potential: str, device: str) -> _Worker:
        # spawned, because a fork of a process that runs torch's threads can deadlock
        context = get_context("spawn")
        ours, theirs = context.Pipe()
        served = (theirs, calculation, potential, kind_of(device), os.getpid())
        process = context.Process(target=_serve, args=served, daemon=True)
        with single_threaded_children(), children_on(device):
            process.start()
        theirs.close()
        return cls(process, ours, device, since=time.monotonic())

    @property
    def alive(self) -> bool:
        return bool(self.process.is_alive())

    def take(self, key: str, crystal: Crystal) -> None:
        self.key, self.crystal = key, crystal
        if self.loaded:
            self._send()

    def finish(self, time_limit: float) -> Finished | None:
        """The outcome if there is one; a process over its limit is killed."""
        if self.pipe.poll():
            return self._receive()
        limit = time_limit if self.loaded else STARTUP_LIMIT
        if time.monotonic() - self.since <= limit:
            return None
        self.stop()
        what = "" if self.loaded else " while the potential was loaded"
        message = f"took longer than {limit:g} s{what} and was killed"
        return self._finished(Failed("timed_out", message, from_outside=not self.loaded))

    def stop(self) -> None:
        """Kill the process."""
        self.pipe.close()
        self.process.kill()
        self.process.join()

    def _send(self) -> None:
        self.since = time.monotonic()
        self.pipe.send(self.crystal)

    def _receive(self) -> Finished | None:
        try:
            said = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode
            message = f"the process died ({_cause(code)})"
            return self._finished(Failed("calculator_error", message, from_outside=code in _KILLED or not self.loaded))
        if isinstance(said, PotentialError):
            raise said
        if not self.loaded:
            self.loaded = True
            self._send()
            return None
        return self._finished(said)

    def _finished(self, outcome: Outcome) -> Finished:
        return Finished(self.key, outcome, time.monotonic() - self.since)


def _calculate_one(item: tuple[str, Crystal], calculation: Calculation, potential: str, time_limit: float) -> Finished:
    current_process().daemon = False  # Dask's workers are daemons, which may not start processes
    (finished,) = calculate_all([item], calculation, potential, time_limit=time_limit)
    return finished


def _ready(pool: list[_Worker]) -> list[_Worker]:
    """Wait for a message of any worker with a timeout, then check all: one may be over its limit."""
    connection.wait([w.pipe for w in pool], timeout=0.2)
    return list(pool)


def _serve(pipe: connection.Connection, calculation: Calculation, spec: str, device: str, parent: int) -> None:
    """Load the potential, then return an outcome for every crystal."""
    from engine.physics.potentials import load_potential

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    try:
        potential = load_potential(spec, device=device)
    except PotentialError as error:
        pipe.send(error)
        return
    pipe.send("loaded")
    while True:
        try:
            crystal = pipe.recv()
        except EOFError:
            return
        pipe.send(_checked(calculation, crystal, potential))


def _checked(calculation: Calculation, crystal: Crystal, potential: Potential) -> Outcome:
    start, elsewhere = time.process_time(), potential.core_seconds_elsewhere
    try:
        outcome = calculation(crystal, potential)
    except Exception as error:  # a calculator may raise anything; the next crystal may succeed
        message = f"{type(error).__name__}: {error}"
        spent = time.process_time() - start
        outcome = Failed("calculator_error", message, core_seconds=spent, from_outside=isinstance(error, MemoryError))
    if more := potential.core_seconds_elsewhere - elsewhere:
        outcome = replace(outcome, core_seconds=outcome.core_seconds + more)
    if isinstance(outcome, Calculated) and not 0 < outcome.kappa < math.inf:
        message = f"kappa came out as {outcome.kappa} W/(m K), which is not positive and finite"
        return Failed("bad_output", message, outcome.provenance, outcome.core_seconds)
    return outcome


def _end_with(parent: int) -> None:
    """End this process when its parent has died, even in the middle of a calculation."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _cause(exit_code: int | None) -> str:
    return signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else f"exit code {exit_code}"
