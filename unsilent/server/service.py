"""The service behind the routes: accepts and runs jobs, sends their events to listeners, and estimates waits from past jobs."""

import asyncio
import base64
import logging
import re
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, Protocol, runtime_checkable

from unsilent.checkpoints.folders import find_bundle, read_defaults
from unsilent.errors import ParameterError, UnsilentError
from unsilent.server.asked import Ask, check_ask, expected_seconds
from unsilent.server.queue import FairQueue, Waiting
from unsilent.server.settings import Settings
from unsilent.server.store import ENDED, Job, NotFoundError, Store
from unsilent.server.uploads import require_room

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 3  # attempts at a job, if the server ended during each of them
HEARTBEAT_SECONDS = 15.0  # time between heartbeats, which detect dead connections
HOUSEKEEPING_SECONDS = 300.0
QUEUE_SECONDS = 2.0  # time between events that report the position and wait of a queued job
_MEASUREMENTS = 8  # past jobs per model, whose median speed is used
_FOLDER = re.compile(r"(?<![\w.])/(?:[^\s/:,;]+/)+")
STOP = "stop"


@runtime_checkable
class Engine(Protocol):
    """Runs jobs."""

    lanes: int  # number of jobs that run at the same time

    def warm(self) -> None:
        """Load what the first job needs, such as the default model."""

    def run(self, folder: Path, source: Path, made: Path | None, ask: Ask, emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Run one job, see `work.Worker.run`."""

    def close(self) -> None:
        """Release the workers."""


class Live:
    """Progress of a queued or running job, shared by all its listeners: current stage and fraction, previews and finished sounds."""

    def __init__(self) -> None:
        self.stage, self.share = "waiting", 0.0
        self.mel: list[dict[str, Any]] = []  # previews of the mel, each with the number of its first frame
        self.sounds: list[dict[str, Any]] = []
        self.changed = asyncio.Event()

    def take_in(self, event: dict[str, Any]) -> None:
        """Update the progress from an event of a worker."""
        self.stage, self.share = event.get("stage", self.stage), max(self.share, event.get("share", 0.0))
        if "mel" in event:
            self.mel.append({**event, "mel": base64.b64encode(event["mel"]).decode()})
        if "sound" in event:
            self.sounds.append(event["sound"])


class Service:
    """Jobs of all clients. They run in threads of the service; methods may be called from any thread.

    Args:
        settings: settings of the server.
        store: uploads and jobs.
        engine: runs the jobs.
    """

    def __init__(self, settings: Settings, store: Store, engine: Engine) -> None:
        self.settings, self.store, self.engine = settings, store, engine
        self.queue = FairQueue(settings.max_waiting, settings.max_waiting_each)
        self.live: dict[str, Live] = {}
        self.counts: Counter[str] = Counter()  # finished jobs by state
        self.spent = 0.0
        self.is_warm = False
        self._speeds: dict[str, tuple[float, ...]] = {}  # by model: actual over expected seconds of its last jobs
        self._running: dict[str, tuple[float, Waiting]] = {}  # by job: its start time and its entry in the queue
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = threading.Event()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Queue the unfinished jobs of an earlier run, and start the threads."""
        self._loop = loop
        for job in reversed(self.store.last_done()):
            with suppress(NotFoundError):
                expected = expected_seconds(job.ask, self.store.input(None, job.ask.input).facts["seconds"])
                self._learn(job.ask.model, (job.ended - job.started) / expected)
        for job in self.store.unfinished():
            if job.attempts >= MAX_ATTEMPTS:
                self.store.end(job.id, "failed", f"the server ended {job.attempts} times while this job was running; it is not run again.")
                continue
            self.store.end(job.id, "queued")
            self._enqueue(job, again=True)
        for lane in range(self.engine.lanes):
            threading.Thread(target=self._work, args=(lane == 0,), name=f"lane {lane}", daemon=True).start()
        threading.Thread(target=self._keep_house, name="housekeeping", daemon=True).start()

    def close(self) -> None:
        """Stop the service. A job that is running starts again at the next start."""
        self._stop.set()
        self.queue.close()
        self.engine.close()

    def submit(self, client: str, ask: Ask) -> Job:
        """Accept a job.

        Raises:
            UnsilentError: if an upload or model does not exist, a value is not allowed, or the server is busy.
        """
        found = self.store.input(client, ask.input)
        for id in ask.request.files().values():
            self.store.input(client, id)
        if ask.again is not None:
            ask = self._of_made(client, ask)
        if Path(ask.model).name != ask.model:
            raise ParameterError("model must be the name of a model on this server, not a path.")
        defaults = read_defaults(find_bundle(self.settings.model_of(ask.model)))
        require_room(0, self.store, self.settings)
        check_ask(ask, found.kind, found.facts["has_sound"], found.facts["seconds"], defaults, self.settings)
        job = self.store.add_job(client, ask)
        try:
            self._enqueue(job)
        except UnsilentError:
            self.store.delete("jobs", job.id)
            raise
        return job

    def _of_made(self, client: str, ask: Ask) -> Ask:
        """Complete a retake with the upload, model and vocoder of the original job."""
        made = self.store.job(client, ask.again.job)
        if ask.again.sound not in [sound.get("video") for sound in made.result.get("sounds", ())]:
            raise NotFoundError(f"that job has no sound {ask.again.sound!r}; it may not be finished.")
        return ask.model_copy(update={"input": made.ask.input, "model": made.ask.model, "vocoder": made.ask.vocoder})

    def _enqueue(self, job: Job, *, again: bool = False) -> None:
        seconds = self.store.input(None, job.ask.input).facts["seconds"]
        self.live[job.id] = Live()
        try:
            one = Waiting(job.id, job.client, job.ask.model, expected_seconds(job.ask, seconds))
            self.queue.put(one, self.wait_seconds(), again=again)
        except UnsilentError:
            del self.live[job.id]
            raise

    def wait_seconds(self, job: str | None = None) -> float:
        """Estimate the seconds until a waiting job starts, if no other client submits jobs; None stands for a new job."""
        now, order = time.time(), self.queue.order()
        before = next((number for number, one in enumerate(order) if one.job == job), len(order))
        waits = sum(map(self._expected, order[:before]))
        running = sum(max(0.0, self._expected(one) - (now - started)) for started, one in list(self._running.values()))
        return (waits + running) / self.engine.lanes

    def _expected(self, one: Waiting) -> float:
        if one.model in self._speeds:
            return one.seconds * median(self._speeds[one.model])
        overrun = [(time.time() - started) / running.seconds for started, running in list(self._running.values())]
        return one.seconds * max([1.0, *overrun])  # if no job with this model is finished yet

    def _learn(self, model: str, speed: float) -> None:
        self._speeds[model] = (*self._speeds.get(model, ())[1 - _MEASUREMENTS :], speed)

    def view(self, job: Job) -> dict[str, Any]:
        """Return the data of a job that its client may see."""
        order = [one.job for one in self.queue.order()]
        waits = job.state == "queued" and job.id in order
        return {
            "id": job.id, "state": job.state, "why": job.why, "ask": job.ask.model_dump(exclude_none=True), "created": job.created,
            "started": job.started, "ended": job.ended, "position": order.index(job.id) + 1 if waits else None,
            "wait_seconds": round(self.wait_seconds(job.id), 1) if waits else None, "name": self._name_of(job), **job.result,
            "expires": None if job.ended is None else job.ended + 3600 * self.settings.keep_hours,
        }  # fmt: skip

    def _name_of(self, job: Job) -> str:
        with suppress(UnsilentError):
            return self.store.input(job.client, job.ask.input).name
        return ""

    def stop(self, job: Job) -> None:
        """Stop a job; the part that has been sampled is kept."""
        if self.queue.remove(job.id):
            self._end(job.id, "stopped", "stopped before it started.")
        elif job.state == "running":
            (self.store.folder_of(job) / STOP).touch()

    def forget(self, job: Job) -> None:
        """Delete a job and its results. A running job is only stopped; it is deleted when its results expire."""
        self.stop(job)
        if self.store.job(None, job.id).state in ENDED:
            self.store.delete("jobs", job.id)

    async def events(self, job: Job) -> AsyncIterator[dict[str, Any]]:
        """Yield the events of a job until it ends: first its current state, then every change."""
        live, n_mel, n_sounds, shown = self.live.get(job.id), 0, 0, None
        while live is not None:
            changed = live.changed
            job = self.store.job(None, job.id)
            if job.state in ENDED:
                break
            now = {"stage": live.stage, "share": live.share, "state": job.state}
            if job.state == "queued":
                now |= {key: self.view(job)[key] for key in ("position", "wait_seconds")}
            if now != shown:
                shown = now
                yield {"event": "progress", **now}
            for part in live.mel[n_mel:]:
                yield {"event": "mel", **part}
            for sound in live.sounds[n_sounds:]:
                yield {"event": "sound", **sound}
            n_mel, n_sounds = len(live.mel), len(live.sounds)
            try:
                await asyncio.wait_for(changed.wait(), QUEUE_SECONDS if job.state == "queued" else HEARTBEAT_SECONDS)
            except TimeoutError:
                yield {"event": "still"}
        yield {"event": "end", **self.view(self.store.job(None, job.id))}

    def _tell(self, id: str, event: dict[str, Any]) -> None:
        """Send an event to the listeners, in the thread of the event loop."""

        def touch() -> None:
            live = self.live.get(id)
            if live is not None:
                live.take_in(event)
                before, live.changed = live.changed, asyncio.Event()
                before.set()

        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(touch)

    def _work(self, is_first: bool) -> None:
        """Run jobs one after another in this thread."""
        if is_first:
            try:
                self.engine.warm()
            except Exception:
                log.exception("the model cannot be loaded")
        self.is_warm = True
        while (one := self.queue.take()) is not None:
            try:
                self._do(self.store.job(None, one.job), one)
            except Exception:  # such as a full disk; other jobs continue
                log.exception("job %s", one.job)

    def _do(self, job: Job, one: Waiting) -> None:
        started = time.time()
        self.store.begin(job.id)
        self._running[job.id] = started, one
        self._tell(job.id, {"stage": "loading"})
        folder, ask = self.store.folder_of(job), job.ask.model_copy(update={"model": self.settings.model_of(job.ask.model)})
        try:
            source = self.store.path_of(self.store.input(job.client, ask.input))
            given = {name: str(self.store.path_of(self.store.input(job.client, id))) for name, id in ask.request.files().items()}
            ask = ask.model_copy(update={"request": ask.request.model_copy(update=given)})
            made = None if ask.again is None else self.store.folder_of(self.store.job(job.client, ask.again.job)) / ask.again.sound
            result = self.engine.run(folder, source, made, ask, lambda event: self._tell(job.id, event))
            spent = time.time() - started
            self.spent += spent
            if result["state"] == "done":
                self._learn(one.model, spent / one.seconds)
            state = result.pop("state")
            why = "" if state == "done" or result["sounds"] else "stopped before any code was sampled."
            ended = state, why, result
        except UnsilentError as error:
            ended = "failed", without_folders(str(error)), {}
        except Exception as error:
            log.exception("a defect of unsilent, please report it:")
            ended = "failed", f"a defect of unsilent ({type(error).__name__}); the log of the server has the details.", {}
        finally:
            self._running.pop(job.id, None)
        if not self._stop.is_set():
            self._end(job.id, *ended)

    def _end(self, id: str, state: str, why: str, result: dict[str, Any] | None = None) -> None:
        self.store.end(id, state, why, result)
        self.counts[state] += 1
        self._tell(id, {"share": 1.0})
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self.live.pop, id, None)

    def _keep_house(self) -> None:
        while not self._stop.wait(HOUSEKEEPING_SECONDS):
            self.store.expire(time.time() - 3600 * self.settings.keep_hours)


def without_folders(sentence: str) -> str:
    """Reduce paths in a sentence to file names, because a client must not see folders of the server."""
    return _FOLDER.sub("", sentence)
