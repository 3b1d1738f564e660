"""One job over many items: in this process, in several, or on a Ray cluster. Results are the same, in the order of the items."""

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

AHEAD = 8  # items for each worker that may be done before an earlier one is
DEATHS = 2  # workers that may die of an item: the first may have been the victim of its machine


@dataclass(frozen=True)
class Spread:
    """How a job is spread.

    Attributes:
        workers: processes of this machine, or actors of the cluster; None is this process alone, or all that the cluster has room for.
        ray: address of a Ray cluster, `auto` for the one this machine belongs to, `local` to start one; None uses none.

    Raises:
        ParameterError: for less than one worker.
    """

    workers: int | None = None
    ray: str | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise ParameterError(f"{self.workers} workers were asked for; it takes 1 or more.")


@dataclass(frozen=True)
class Failure:
    """What stands for the result of an item that gave none; `why` is a sentence that names it."""

    why: str


def run(
    build: Callable[[], Work[Item, Result]], items: Iterable[Item], spread: Spread = Spread(), named: Callable[[Item], str] = str
) -> Iterator[tuple[Item, Result | Failure]]:
    """Do the same work on every item.

    Args:
        build: called once in every worker, for what is worth keeping from item to item such as a loaded network; gives the work. It must
            be picklable, as a frozen dataclass with `__call__` is, if the job is spread. Whatever it raises ends the job.
        items: read as they are needed, never far ahead; picklable. What is random about one must be seeded by the item itself.
        spread: over what.
        named: how sentences name an item.

    Yields:
        Every item with its result, in the order of the items, as they become ready. An item whose work raises an error, or of which
        `DEATHS` workers die, comes with a `Failure`, and the others are done.

    Raises:
        ParameterError: if there is no Ray here, or no cluster at the address.
        UnsilentError: if workers die before they have begun.
    """
    if spread == Spread():
        work = build()
        for item in items:
            yield item, _attempt(work, item, named)
        return
    crew = _Cluster(spread, build, named) if spread.ray else _Processes(spread.workers, build, named)
    with closing(crew):
        yield from _in_order(crew, items, named)


def _attempt(work: Work[Item, Result], item: Item, named: Callable[[Item], str]) -> Result | Failure:
    try:
        return work(item)
    except UnsilentError as error:
        return Failure(str(error))
    except OSError as error:
        return Failure(f"{error.filename or named(item)}: {error.strerror or error}.")
    except Exception as error:  # a defect, but the other items shall be done
        log.debug("%s", traceback.format_exc())
        return Failure(f"{named(item)}: {type(error).__name__}: {error}")


class _DiedError(Exception):
    """A worker is gone; says how it went."""


@runtime_checkable
class _Worker(Protocol):
    """Someone who builds the work when hired, and then does one item at a time."""

    def give(self, item: Any) -> None: ...

    def take(self) -> Any:
        """The outcome of the item, or at first the error of building, or None; it may have to be waited for.

        Raises:
            _DiedError: if there is no outcome because there is no worker any more.
        """


@runtime_checkable
class _Crew(Protocol):
    """Workers of one kind, and how to wait for them."""

    size: int

    def hire(self) -> _Worker: ...

    def ready(self, workers: Sequence[_Worker], patient: bool) -> Sequence[_Worker]:
        """Those that have an outcome or died: at least one of them if `patient`."""


def _in_order(crew: _Crew, items: Iterable[Item], named: Callable[[Item], str]) -> Iterator[tuple[Item, Any]]:
    coming, again = enumerate(items), list[tuple[int, Item]]()
    doing: dict[_Worker, tuple[int, Item] | None] = {crew.hire(): None for _ in range(crew.size)}  # None: building
    idle: list[_Worker] = []
    done: dict[int, tuple[Item, Any]] = {}
    deaths = Counter[int]()
    n_taken = n_given = 0
    while True:
        while idle:
            if again:
                task = again.pop()
            elif n_taken - n_given < AHEAD * crew.size and (task := next(coming, None)):
                n_taken += 1
            else:
                break
            idle[-1].give(task[1])
            doing[idle.pop()] = task
        if idle and n_given == n_taken:
            return
        for worker in crew.ready(list(doing), patient=n_given not in done) if doing else ():
            task = doing.pop(worker)
            try:
                outcome = worker.take()
            except _DiedError as error:
                if task is None:
                    raise UnsilentError(f"a worker {error} before it had begun; try the job without workers.") from None
                doing[crew.hire()] = None
                deaths[task[0]] += 1
                if deaths[task[0]] < DEATHS:
                    again.append(task)
                else:
                    done[task[0]] = task[1], Failure(f"{named(task[1])}: {DEATHS} workers died of it, the last {error}.")
                continue
            if task is not None:
                done[task[0]] = task[1], outcome
            elif outcome is not None:
                raise outcome
            idle.append(worker)
        if n_given in done:
            yield done.pop(n_given)
            n_given += 1


def _build(build: Callable[[], Work]) -> tuple[Work | None, Exception | None]:
    """The work, or what went wrong."""
    try:
        return build(), None
    except Exception as error:
        return None, error


class _Process:
    """A process of this machine at the other end of a pipe."""

    def __init__(self, settings: dict[str, str], build: Callable[[], Work], named: Callable[[Any], str]) -> None:
        context = multiprocessing.get_context("spawn")  # a forked copy of a process with threads may hang
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, settings), daemon=True)
        with _held_interrupts():
            self.process.start()
        theirs.close()
        self.give((build, named))

    def give(self, item: Any) -> None:
        with suppress(BrokenPipeError):  # a dead worker is noticed where its outcome is taken
            self.connection.send(item)

    def take(self) -> Any:
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            self.dismiss()
            code = self.process.exitcode
            raise _DiedError(f"was ended by signal {-code}" if code < 0 else f"ended with code {code}") from None

    def dismiss(self) -> None:
        self.connection.close()
        self.process.join()


def _serve(connection: Connection, settings: dict[str, str]) -> None:
    """What a process does until nobody is at the other end any more, for whatever reason.

    Args:
        connection: where things come from and outcomes go to.
        settings: of the environment, which libraries look at when the first thing that comes makes them load.
    """
    os.environ.update(settings)
    with suppress(EOFError, ConnectionError):
        build, named = connection.recv()
        work, error = _build(build)
        connection.send(error)
        while True:
            connection.send(_attempt(work, connection.recv(), named))


@contextmanager
def _held_interrupts() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal at once; those started here never hear it, and this one a moment later."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # else the first process would start it, and starting it lets interrupts through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Processes:
    """Processes of this machine, which share its threads and its GPUs."""

    def __init__(self, size: int, build: Callable[[], Work], named: Callable[[Any], str]) -> None:
        import torch

        self.size, self.build, self.named = size, build, named
        self.settings = {"OMP_NUM_THREADS": str(max(1, torch.get_num_threads() // size))}
        every_gpu = ",".join(map(str, range(torch.cuda.device_count())))
        self.gpus = os.environ.get("CUDA_VISIBLE_DEVICES", every_gpu).split(",") if every_gpu else []
        self.hired: list[_Process] = []

    def hire(self) -> _Process:
        gpu = {"CUDA_VISIBLE_DEVICES": self.gpus[len(self.hired) % len(self.gpus)]} if self.gpus else {}
        self.hired.append(_Process(self.settings | gpu, self.build, self.named))
        return self.hired[-1]

    def ready(self, workers: Sequence[_Process], patient: bool) -> list[_Process]:
        talking = wait([worker.connection for worker in workers], timeout=None if patient else 0)
        return [worker for worker in workers if worker.connection in talking]

    def close(self) -> None:
        for worker in self.hired:
            worker.process.terminate()
        for worker in self.hired:
            worker.dismiss()


class _Actor:
    """An actor of a cluster and what it is doing."""

    def __init__(self, handle: Any, build: Callable[[], Work], named: Callable[[Any], str]) -> None:
        self.handle = handle
        self.doing = handle.build.remote(build, named)

    def give(self, item: Any) -> None:
        self.doing = self.handle.attempt.remote(item)

    def take(self) -> Any:
        import ray

        try:
            return ray.get(self.doing)
        except ray.exceptions.RayError as error:
            ray.kill(self.handle)  # where only its outcome was lost, its room is wanted for another
            raise _DiedError(f"ended with {type(error).__name__}") from None


class _Bench:
    """What an actor holds."""

    def build(self, build: Callable[[], Work], named: Callable[[Any], str]) -> Exception | None:
        self.named = named
        self.work, error = _build(build)
        return error

    def attempt(self, item: Any) -> Any:
        return _attempt(self.work, item, self.named)


def _knock(address: str) -> None:
    """Fail at once where nobody listens; Ray itself goes on trying for five minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class _Cluster:
    """Actors of a Ray cluster, with GPUs where it has them."""

    def __init__(self, spread: Spread, build: Callable[[], Work], named: Callable[[Any], str]) -> None:
        try:
            import ray
        except ModuleNotFoundError:
            raise ParameterError(f"--ray needs the package ray; {how_to_install('cluster')}.") from None
        self.build, self.named = build, named
        self.is_ours = not ray.is_initialized()
        if self.is_ours:
            place = {"num_cpus": spread.workers} if spread.ray == "local" else {"address": spread.ray}
            try:
                _knock(spread.ray)
                ray.init(**place, log_to_driver=False, logging_level=logging.WARNING)
            except (OSError, ValueError, RuntimeError) as error:
                raise ParameterError(f"no Ray cluster answers at {spread.ray}: {error}.") from None
        gpus = ray.cluster_resources().get("GPU", 0)
        self.size = spread.workers or int(gpus or ray.cluster_resources()["CPU"])
        self.kind = ray.remote(_Bench).options(num_cpus=1, num_gpus=min(1, gpus / self.size))
        self.hired: list[_Actor] = []

    def hire(self) -> _Actor:
        self.hired.append(_Actor(self.kind.remote(), self.build, self.named))
        return self.hired[-1]

    def ready(self, workers: Sequence[_Actor], patient: bool) -> list[_Actor]:
        import ray

        done, _ = ray.wait([worker.doing for worker in workers], num_returns=1, timeout=None if patient else 0)
        return [worker for worker in workers if worker.doing in done]

    def close(self) -> None:
        import ray

        if self.is_ours:
            ray.shutdown()
        else:
            for worker in self.hired:
                ray.kill(worker.handle)
