"""Many items of work at once: in processes of this machine, or on the workers of a Dask cluster.

``with executor(settings) as run: for result in run.map_unordered(function, items): ...`` reads the same on both. An
item whose process dies is done again, so that files written by ``function`` must be complete or absent.
"""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from engine.exceptions import ExecutionError

if TYPE_CHECKING:
    from distributed import Client
    from distributed import Future as DaskFuture

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2
"""Items in flight for each worker, one in work and one waiting; further items are created when needed."""
ALLOWED_DEATHS = 3
"""Deaths of a process that one item may cause, as ``distributed.scheduler.allowed-failures``."""
_LOOK_AROUND = 10.0  # seconds without a result after which the workers of a cluster are checked
_THREAD_SETTINGS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")


@dataclass(frozen=True)
class ExecutionSettings:
    """Where work is done; it never changes a result."""

    backend: Literal["local", "dask"] = "local"
    """``local``: processes of this machine; ``dask``: workers of a Dask cluster."""
    workers: int = 0
    """Processes of one thread each; 0: one for each core here, one job on Slurm."""
    address: str = ""
    """``dask``: address of a running scheduler, ``tcp://host:8786``."""
    slurm: Mapping[str, Any] = field(default_factory=dict)
    """``dask``: options of :class:`dask_jobqueue.SLURMCluster`, whose jobs become the workers."""
    timeout: float = 300.0
    """``dask``: seconds to wait for the scheduler and the first worker."""

    def __post_init__(self) -> None:
        """Refuse settings that contradict each other."""
        if self.backend not in {"local", "dask"}:
            raise ExecutionError(f"unknown backend {self.backend!r}; choose 'local' or 'dask'")
        if self.workers < 0:
            raise ExecutionError(f"workers = {self.workers}; give a number above zero, or 0 for one per core")
        if self.backend == "local" and (self.address or self.slurm):
            raise ExecutionError("an address or a Slurm section needs backend 'dask'")
        if self.address and self.slurm:
            raise ExecutionError(f"address {self.address!r} names a cluster, and a Slurm section another; keep one")


class Run(Protocol):
    """Started workers."""

    @property
    def workers(self) -> int:
        """Number of items that are processed at once."""

    def map_unordered(
        self, function: Callable[..., Result], items: Iterable[Item], *common: object
    ) -> Iterator[Result]:
        """``function(item, *common)`` for each item, in order of completion; ``common`` is sent once to each worker.

        ``function`` is importable by name. Items are consumed lazily. An exception of it is raised here, and items that
        are not finished then are dropped.

        Raises
        ------
        ExecutionError
            If an item's process died repeatedly, or the workers are lost.
        """


@contextmanager
def executor(settings: ExecutionSettings) -> Iterator[Run]:
    """Workers for the duration of the block.

    Raises
    ------
    ExecutionError
        If Dask is not installed, the scheduler does not answer, or no worker starts in time.
    """
    if settings.backend == "local":
        yield _Local(settings.workers or cores())
        return
    with _client(settings) as client:
        yield _Dask(client, settings.timeout)


def cores() -> int:
    """Number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def single_threaded_children() -> Iterator[None]:
    """Environment for processes of one thread each; numerical libraries read it when they are imported."""
    before = {name: os.environ.get(name) for name in _THREAD_SETTINGS}
    os.environ.update(dict.fromkeys(_THREAD_SETTINGS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@dataclass
class _Local:
    """Spawned processes: a fork of a process that runs torch's threads can deadlock."""

    workers: int

    def map_unordered(
        self, function: Callable[..., Result], items: Iterable[Item], *common: object
    ) -> Iterator[Result]:
        if self.workers == 1:
            for item in items:
                yield function(item, *common)
            return
        rest = iter(items)
        lost: deque[tuple[Item, int]] = deque()  # and the number of deaths of the process of each
        while True:
            pool = ProcessPoolExecutor(self.workers, get_context("spawn"), _remember, (common,))
            waiting: dict[Future[Result], tuple[Item, int]] = {}
            try:
                while True:
                    lost.extend((item, 0) for item in islice(rest, AHEAD * self.workers - len(waiting) - len(lost)))
                    while lost:
                        with single_threaded_children():
                            future = pool.submit(_call, function, lost[0][0])
                        waiting[future] = lost.popleft()
                    if not waiting:
                        return
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        result = future.result()
                        del waiting[future]
                        yield result
            except BrokenProcessPool as error:
                lost.extendleft((item, deaths + 1) for item, deaths in waiting.values())
                if max(deaths for _, deaths in lost) > ALLOWED_DEATHS:
                    raise ExecutionError(
                        f"a process died {ALLOWED_DEATHS + 1} times over the same work (out of memory, or a script "
                        "whose start is not under `if __name__ == '__main__':`); use fewer workers"
                    ) from error
            finally:
                pool.shutdown(cancel_futures=True)


@dataclass
class Threads:
    """Threads of this process, for work outside Python: they start at once and share open files."""

    workers: int

    def map_unordered(
        self, function: Callable[..., Result], items: Iterable[Item], *common: object
    ) -> Iterator[Result]:
        """See :meth:`Run.map_unordered`."""
        rest = iter(items)
        waiting: set[Future[Result]] = set()
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                while True:
                    for item in islice(rest, AHEAD * self.workers - len(waiting)):
                        waiting.add(pool.submit(function, item, *common))
                    if not waiting:
                        return
                    for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                        waiting.remove(future)
                        yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)


class _Dask:
    """Workers of a Dask cluster; Dask reschedules the work of a lost one."""

    def __init__(self, client: Client, timeout: float):
        self._client = client
        self._timeout = timeout
        self.wait_for_workers()

    @property
    def workers(self) -> int:
        return max(1, sum(self._client.nthreads().values()))

    def wait_for_workers(self) -> None:
        """Wait for the first worker."""
        try:
            self._client.wait_for_workers(1, timeout=self._timeout)
        except TimeoutError as error:
            where = self._client.scheduler_info()["address"]
            raise ExecutionError(
                f"no worker has started at {where} within {self._timeout:g} s; look at the cluster's queue and logs, "
                "or raise the timeout"
            ) from error

    def map_unordered(
        self, function: Callable[..., Result], items: Iterable[Item], *common: object
    ) -> Iterator[Result]:
        import dask
        from distributed import CancelledError, KilledWorker, wait
        from distributed.comm import CommClosedError

        # as results, not as scattered data: results are computed again if their worker is lost; Dask would
        # warn of large ones, which go through the scheduler here on purpose
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": sys.maxsize}):
            shared = [self._client.submit(_same, value, pure=False) for value in common]
        rest = iter(items)
        waiting: set[DaskFuture[Result]] = set()
        try:
            while True:
                for item in islice(rest, max(0, AHEAD * self.workers - len(waiting))):
                    waiting.add(self._client.submit(function, item, *shared, pure=False))
                if not waiting:
                    return
                try:
                    with self._client.as_current():
                        done = wait(list(waiting), timeout=_LOOK_AROUND, return_when="FIRST_COMPLETED").done
                except TimeoutError:  # long work, or no worker is left
                    self.wait_for_workers()
                    continue
                for future in done:
                    result = future.result()
                    waiting.remove(future)
                    yield result
        except KilledWorker as error:
            raise ExecutionError(
                f"workers died {error.allowed_failures + 1} times over the same work, probably out of memory; "
                "give each worker more"
            ) from error
        except (CancelledError, CommClosedError) as error:
            raise ExecutionError(f"the Dask cluster was lost ({error}); what is finished is kept, run again") from error
        finally:
            if waiting and self._client.status == "running":
                self._client.cancel(list(waiting))


def _same(value: object) -> object:
    """Return the value, as a result that the worker holds."""
    return value


def _call(function: Callable[..., Result], item: object) -> Result:
    return function(item, *_common)


def _remember(common: tuple[object, ...]) -> None:
    global _common  # noqa: PLW0603  # set once, when the process starts
    _common = common


_common: tuple[object, ...] = ()
"""Common arguments of a process, sent once at its start and not with every item."""


@contextmanager
def _client(settings: ExecutionSettings) -> Iterator[Client]:
    try:
        from distributed import Client
    except ImportError as error:
        raise ExecutionError(
            f"backend 'dask' needs Dask ({error}); install it with `pip install kappascout[dask]`"
        ) from error
    if settings.address:
        try:
            client = Client(settings.address, timeout=settings.timeout, set_as_default=False)
        except (OSError, ValueError) as error:
            raise ExecutionError(
                f"no Dask scheduler answers at {settings.address!r} ({error}); start one with `dask scheduler` and "
                "workers with `dask worker ADDRESS --nthreads 1`"
            ) from error
        with client:
            yield client
        return
    with _cluster(settings) as cluster, Client(cluster, set_as_default=False) as client:
        yield client


def _cluster(settings: ExecutionSettings) -> Any:
    """Workers of one thread each that are started here: processes, or jobs of Slurm."""
    if not settings.slurm:
        from distributed import LocalCluster

        return LocalCluster(
            n_workers=settings.workers or cores(),
            threads_per_worker=1,
            dashboard_address=":0",  # any port: several runs share a machine
            silence_logs=logging.ERROR,
        )
    from dask_jobqueue import SLURMCluster

    options = {"processes": settings.slurm.get("cores", 1), **settings.slurm}
    try:
        SLURMCluster.job_cls("tcp://scheduler", "check", **options)  # before anything is started
    except (TypeError, ValueError) as error:
        raise ExecutionError(f"dask-jobqueue refuses the Slurm section: {error}") from error
    cluster = SLURMCluster(scheduler_options={"dashboard_address": ":0"}, **options)
    workers = settings.workers or options["processes"]
    cluster.adapt(minimum=workers, maximum=workers)  # a job that ends is replaced
    return cluster
