"""Ordered parallel map of a function over many items: in this process, in several processes, or on a Ray cluster."""

import logging
import multiprocessing
import os
import signal
import socket
import traceback
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol, TypeVar, runtime_checkable

from unsilent.errors import ParameterError, UnsilentError, how_to_install

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")
Work = Callable[[Item], Result]

AHEAD = 8  # items per worker that may be finished before an earlier item
MAX_DEATHS = (
    2  # workers that may die on one item: it is retried once, because the first death may have another cause, such as lack of memory
)


@dataclass(frozen=True)
class Parallel:
    """Where a job runs.

    Attributes:
        workers: number of processes on this machine, or of actors on the cluster. None runs in this process, or with as many actors as the
            cluster has GPUs (CPUs if it has no GPUs).
        ray: address of a Ray cluster; `auto` is the cluster of this machine, `local` starts one. None uses no cluster.

    Raises:
        ParameterError: for less than one worker.
    """

    workers: int | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ParameterError(f"workers is {self.workers}, but must be 1 or more.")


@dataclass(frozen=True)
class Failed:
    """Result of a failed item; `reason` is a sentence that names the item."""

    reason: str


def map_ordered(
    build: Callable[[], Work[Item, Result]], items: Iterable[Item], parallel: Parallel = Parallel(), name: Callable[[Item], str] = str
) -> Iterator[tuple[Item, Result | Failed]]:
    """Apply a function to every item.

    Args:
        build: called once in every worker; loads shared objects, such as a network, and returns the function for one item. An exception in
            `build` ends the job. It is pickled for workers, so it must be a module-level function or a frozen dataclass.
        items: consumed lazily; must be picklable. Randomness must be seeded by the item.
        parallel: where the job runs.
        name: returns the name of an item, for messages.

    Yields:
        Every item with its result, in order. The result is `Failed` if the function raised an exception or `MAX_DEATHS` workers died on the
        item; other items are still processed.

    Raises:
        ParameterError: if Ray is not installed, or no cluster answers at the address.
        UnsilentError: if a worker dies before `build` has returned.
    """
    if parallel == Parallel():
        work = build()
        for item in items:
            yield item, _attempt(work, item, name)
        return
    pool = _RayPool(parallel, build, name) if parallel.ray else _ProcessPool(parallel.workers, build, name)
    with closing(pool):
        yield from _schedule(pool, items, name)


def _attempt(work: Work[Item, Result], item: Item, name: Callable[[Item], str]) -> Result | Failed:
    try:
        return work(item)
    except UnsilentError as error:
        return Failed(str(error))
    except OSError as error:
        return Failed(f"{error.filename or name(item)}: {error.strerror or error}.")
    except Exception as error:  # a defect of the function; other items are still processed
        log.debug("%s", traceback.format_exc())
        return Failed(f"{name(item)}: {type(error).__name__}: {error}")


class _WorkerDiedError(Exception):
    """A worker ended unexpectedly; the message says how."""


@runtime_checkable
class _Worker(Protocol):
    """Calls `build` when started, then processes one item at a time."""

    def send(self, item: Any) -> None:
        """Start processing an item."""

    def receive(self) -> Any:
        """Result of the last item; before the first item, the exception of `build` or None. May block.

        Raises:
            _WorkerDiedError: if the worker has ended.
        """


@runtime_checkable
class _Pool(Protocol):
    """Starts workers of one kind, and waits for them."""

    size: int

    def start(self) -> _Worker:
        """Start a new worker."""

    def ready(self, workers: Sequence[_Worker], block: bool) -> Sequence[_Worker]:
        """Workers that have a result or have ended; waits for at least one if `block`."""


def _schedule(pool: _Pool, items: Iterable[Item], name: Callable[[Item], str]) -> Iterator[tuple[Item, Any]]:
    """Keep all workers busy, and yield results in order; tasks are pairs of an item's number and the item."""
    new, retries = enumerate(items), list[tuple[int, Item]]()
    busy: dict[_Worker, tuple[int, Item] | None] = {pool.start(): None for _ in range(pool.size)}  # None while building
    idle: list[_Worker] = []
    finished: dict[int, tuple[Item, Any]] = {}
    deaths = Counter[int]()
    n_sent = n_yielded = 0
    while True:
        while idle:
            if retries:
                task = retries.pop()
            elif n_sent - n_yielded < AHEAD * pool.size and (task := next(new, None)):
                n_sent += 1
            else:
                break
            idle[-1].send(task[1])
            busy[idle.pop()] = task
        if idle and n_yielded == n_sent:
            return
        for worker in pool.ready(list(busy), block=n_yielded not in finished) if busy else ():
            task = busy.pop(worker)
            try:
                result = worker.receive()
            except _WorkerDiedError as error:
                if task is None:
                    raise UnsilentError(f"a worker {error} before it was ready; try the job without workers.") from None
                busy[pool.start()] = None
                deaths[task[0]] += 1
                if deaths[task[0]] < MAX_DEATHS:
                    retries.append(task)
                else:
                    finished[task[0]] = task[1], Failed(f"{name(task[1])}: {MAX_DEATHS} workers died on it, the last {error}.")
                continue
            if task is not None:
                finished[task[0]] = task[1], result
            elif result is not None:
                raise result
            idle.append(worker)
        if n_yielded in finished:
            yield finished.pop(n_yielded)
            n_yielded += 1


def _build(build: Callable[[], Work]) -> tuple[Work | None, Exception | None]:
    """The function, or the exception of `build`."""
    try:
        return build(), None
    except Exception as error:
        return None, error


class _Process:
    """A worker process at the other end of a pipe."""

    def __init__(self, environment: dict[str, str], build: Callable[[], Work], name: Callable[[Any], str]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork of a process with threads may deadlock
        self.connection, child = context.Pipe()
        self.process = context.Process(target=_serve, args=(child, environment), daemon=True)
        with _interrupts_blocked():
            self.process.start()
        child.close()
        self.send((build, name))

    def send(self, item: Any) -> None:
        with suppress(BrokenPipeError):  # `receive` reports the death
            self.connection.send(item)

    def receive(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.join()
            code = self.process.exitcode
            raise _WorkerDiedError(f"was ended by signal {-code}" if code < 0 else f"ended with code {code}") from None

    def join(self) -> None:
        self.connection.close()
        self.process.join()


def _serve(connection: Connection, environment: dict[str, str]) -> None:
    """Main loop of a worker process; it ends when the other end of the pipe is closed.

    Args:
        connection: receives `(build, name)`, then items; sends results.
        environment: variables that must be set before `build` is unpickled, because that imports libraries that read them.
    """
    os.environ.update(environment)
    with suppress(EOFError, ConnectionError):
        build, name = connection.recv()
        work, error = _build(build)
        connection.send(error)
        while True:
            connection.send(_attempt(work, connection.recv(), name))


@contextmanager
def _interrupts_blocked() -> Iterator[None]:
    """Processes started in this block ignore SIGINT, which Ctrl-C sends to all processes of a terminal; this process gets it afterwards."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # otherwise the first worker would start it, which unblocks SIGINT
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _ProcessPool:
    """Processes on this machine, which share its threads and GPUs."""

    def __init__(self, size: int, build: Callable[[], Work], name: Callable[[Any], str]) -> None:
        import torch

        self.size, self.build, self.name = size, build, name
        self.environment = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // size))}
        every_gpu = ",".join(map(str, range(torch.cuda.device_count())))
        self.gpus = os.environ.get("CUDA_VISIBLE_DEVICES", every_gpu).split(",") if every_gpu else []
        self.started: list[_Process] = []

    def start(self) -> _Process:
        gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[len(self.started) % len(self.gpus)]} if self.gpus else {}
        self.started.append(_Process(self.environment | gpu, self.build, self.name))
        return self.started[-1]

    def ready(self, workers: Sequence[_Process], block: bool) -> list[_Process]:
        readable = wait([worker.connection for worker in workers], timeout=None if block else 0)
        return [worker for worker in workers if worker.connection in readable]

    def close(self) -> None:
        for worker in self.started:
            worker.process.terminate()
        for worker in self.started:
            worker.join()


class _RayWorker:
    """A Ray actor and its pending call."""

    def __init__(self, handle: Any, build: Callable[[], Work], name: Callable[[Any], str]) -> None:
        self.handle = handle
        self.pending = handle.build.remote(build, name)

    def send(self, item: Any) -> None:
        self.pending = self.handle.attempt.remote(item)

    def receive(self) -> Any:
        import ray

        try:
            return ray.get(self.pending)
        except ray.exceptions.RayError as error:
            ray.kill(self.handle)  # if only its result was lost, the actor still holds resources that a new one needs
            raise _WorkerDiedError(f"ended with {type(error).__name__}") from None


class _Actor:
    """The actor on the cluster."""

    def build(self, build: Callable[[], Work], name: Callable[[Any], str]) -> Exception | None:
        self.name = name
        self.work, error = _build(build)
        return error

    def attempt(self, item: Any) -> Any:
        return _attempt(self.work, item, self.name)


def _check_reachable(address: str) -> None:
    """Raise at once if nothing listens at the address, because Ray would retry for five minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class _RayPool:
    """Actors on a Ray cluster, with GPUs if it has any."""

    def __init__(self, parallel: Parallel, build: Callable[[], Work], name: Callable[[Any], str]) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise ParameterError(f"--ray needs the package ray; {how_to_install('cluster')}.") from None
        self.build, self.name = build, name
        self.owns_connection = not ray.is_initialized()
        if self.owns_connection:
            place = {"num_cpus": parallel.workers} if parallel.ray == "local" else {"address": parallel.ray}
            try:
                _check_reachable(parallel.ray)
                ray.init(**place, log_to_driver=False, logging_level=logging.WARNING)
            except (OSError, ValueError, RuntimeError) as error:
                raise ParameterError(f"no Ray cluster answers at {parallel.ray}: {error}.") from None
        gpus = ray.cluster_resources().get("GPU", 0)
        self.size = parallel.workers or int(gpus or ray.cluster_resources()["CPU"])
        self.actor = ray.remote(_Actor).options(num_cpus=1, num_gpus=min(1, gpus / self.size))
        self.started: list[_RayWorker] = []

    def start(self) -> _RayWorker:
        self.started.append(_RayWorker(self.actor.remote(), self.build, self.name))
        return self.started[-1]

    def ready(self, workers: Sequence[_RayWorker], block: bool) -> list[_RayWorker]:
        import ray

        done, _ = ray.wait([worker.pending for worker in workers], num_returns=1, timeout=None if block else 0)
        return [worker for worker in workers if worker.pending in done]

    def close(self) -> None:
        import ray

        if self.owns_connection:
            ray.shutdown()
        else:
            for worker in self.started:
                ray.kill(worker.handle)
