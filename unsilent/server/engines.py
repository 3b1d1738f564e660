"""Engines that run jobs: in this process, or in replicas on a Ray cluster. Both use `work.Worker`."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import Any

from unsilent.errors import UnsilentError
from unsilent.server.asked import Ask
from unsilent.server.settings import Settings

Emit = Callable[[dict[str, Any]], None]


class Here:
    """One worker in this process. The calling thread owns its models and imports torch.

    Args:
        settings: settings of the server.
        is_alone: whether the process has no other purpose. If so, a sound is generated before the first job, and on a CPU the
            memory is limited. On a GPU it is not, because the driver maps more memory.
    """

    lanes = 1

    def __init__(self, settings: Settings, is_alone: bool = False) -> None:
        self._settings, self._is_alone, self._worker = settings, is_alone, None

    def warm(self) -> None:
        """Import torch and load the model."""
        from unsilent.server.work import Worker
        from unsilent.speed.choice import choose_device
        from unsilent.speed.memory import limit_memory

        if self._is_alone and choose_device(self._settings.device).type == "cpu":
            limit_memory(self._settings.max_memory)
        self._worker = Worker(self._settings.device, self._settings.precision, self._settings.model)
        self._worker.warm()
        if self._is_alone:
            self._worker.rehearse()

    def run(self, folder: Path, source: Path, made: Path | None, ask: Ask, emit: Emit) -> dict[str, Any]:
        """Run one job, see `work.Worker.run`."""
        from unsilent.server.work import Task

        return self._worker.run(Task(folder, source, ask, self._settings.max_seconds, made), emit)

    def close(self) -> None:
        """Do nothing, because the thread ends with the process."""


@dataclass(frozen=True)
class _Replica:
    """Picklable factory. A replica calls it once, and then calls the returned function for each job."""

    settings: Settings

    def __call__(self) -> Callable[[tuple[Path, Path, Path | None, Ask]], Iterator[dict[str, Any]]]:
        engine = Here(self.settings, is_alone=True)
        engine.warm()

        def run(job: tuple[Path, Path, Path | None, Ask]) -> Iterator[dict[str, Any]]:
            events: Queue[dict[str, Any]] = Queue()

            def work() -> None:
                try:
                    events.put({"result": engine.run(*job, events.put)})
                except UnsilentError as error:
                    events.put({"error": str(error)})
                except Exception as error:
                    events.put({"error": f"a defect of unsilent: {type(error).__name__}: {error}"})

            Thread(target=work, daemon=True).start()
            while True:
                yield (event := events.get())
                if "result" in event or "error" in event:
                    return

        return run


class OnRay:
    """Replicas of Ray Serve, which must be able to access the server's folder.

    Raises:
        ParameterError: if Ray is not installed or no cluster answers.
    """

    def __init__(self, settings: Settings) -> None:
        from unsilent.jobs.replicas import Replicas

        self.lanes = settings.replicas
        self._replicas = Replicas(_Replica(settings), settings.ray, settings.replicas)

    def warm(self) -> None:
        """Do nothing, because replicas load their models when they start."""

    def run(self, folder: Path, source: Path, made: Path | None, ask: Ask, emit: Emit) -> dict[str, Any]:
        """Run one job on a free replica.

        Raises:
            UnsilentError: if the job failed in the replica, or the replica ended.
        """
        for event in self._replicas.stream((folder, source, made, ask)):
            if "error" in event:
                raise UnsilentError(event["error"])
            if "result" in event:
                return event["result"]
            emit(event)
        raise UnsilentError("the replica ended before the job; submit the job again.")

    def close(self) -> None:
        """Stop the replicas."""
        self._replicas.close()
