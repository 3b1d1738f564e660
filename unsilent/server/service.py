"""The service behind the routes: accepts jobs, runs them in turn, tells who listens how far they are, and learns how long they take."""

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

MAX_ATTEMPTS = 3  # of a job during which the server was killed
HEARTBEAT_SECONDS = 15.0  # so that dead connections are noticed
HOUSEKEEPING_SECONDS = 300.0
QUEUE_SECONDS = 2.0  # between events that give waiting jobs their place and wait anew
_MEASUREMENTS = 8  # of a model, whose median is its speed
_FOLDER = re.compile(r"(?<![\w.])/(?:[^\s/:,;]+/)+")
STOP = "stop"


@runtime_checkable
class Engine(Protocol):
    """Where jobs are computed."""

    lanes: int  # jobs at the same time

    def warm(self) -> None:
        """Load what the first job needs."""

    def run(self, folder: Path, source: Path, made: Path | None, ask: Ask, emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
        """Do one job, see `work.Worker.run`."""

    def close(self) -> None:
        """Release workers."""


class Live:
    """A running job as listeners see it; only the latest of each kind is kept, so slow listeners cost nothing."""

    def __init__(self) -> None:
        self.stage, self.share = "waiting", 0.0
        self.mel: list[dict[str, Any]] = []  # previews, each with its first frame
        self.sounds: list[dict[str, Any]] = []
        self.changed = asyncio.Event()

    def take_in(self, event: dict[str, Any]) -> None:
        """Note an event of a worker."""
        self.stage, self.share = event.get("stage", self.stage), max(self.share, event.get("share", 0.0))
        if "mel" in event:
            self.mel.append({**event, "mel": base64.b64encode(event["mel"]).decode()})
        if "sound" in event:
            self.sounds.append(event["sound"])


class Service:
    """Jobs of all clients. Threads of its own run them; methods may be called from any thread.

    Args:
        settings: of the server.
        store: with uploads and jobs.
        engine: computes.
    """

    def __init__(self, settings: Settings, store: Store, engine: Engine) -> None:
        self.settings, self.store, self.engine = settings, store, engine
        self.queue = FairQueue(settings.max_waiting, settings.max_waiting_each)
        self.live: dict[str, Live] = {}
        self.counts: Counter[str] = Counter()  # of jobs by how they ended
        self.spent = 0.0
        self.is_warm = False
        self._speeds: dict[str, tuple[float, ...]] = {}  # seconds of work for an expected one, of the last jobs with each model
        self._running: dict[str, tuple[float, Waiting]] = {}  # start of each
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = threading.Event()

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take up jobs of before a restart, and start working."""
        self._loop = loop
        for job in reversed(self.store.last_done()):
            with suppress(NotFoundError):
                expected = expected_seconds(job.ask, self.store.input(None, job.ask.input).facts["seconds"])
                self._learn(job.ask.model, (job.ended - job.started) / expected)
        for job in self.store.unfinished():
            if job.attempts >= MAX_ATTEMPTS:
                self.store.end(job.id, "failed", f"the server ended {job.attempts} times while it worked on this; it is not tried again.")
                continue
            self.store.end(job.id, "queued")
            self._enqueue(job, again=True)
        for lane in range(self.engine.lanes):
            threading.Thread(target=self._work, args=(lane == 0,), name=f"lane {lane}", daemon=True).start()
        threading.Thread(target=self._keep_house, name="housekeeping", daemon=True).start()

    def close(self) -> None:
        """Stop working; a job that runs is done again after the next start."""
        self._stop.set()
        self.queue.close()
        self.engine.close()

    def submit(self, client: str, ask: Ask) -> Job:
        """Accept a job.

        Raises:
            UnsilentError: if it asks for something that is not here or not allowed, or the server is busy.
        """
        found = self.store.input(client, ask.input)
        for id in ask.request.files().values():
            self.store.input(client, id)
        if ask.again is not None:
            ask = self._of_made(client, ask)
        if Path(ask.model).name != ask.model:
            raise ParameterError("model must be the name of a model of this server, not a path.")
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
        """The same with the model of the job whose sound is made anew."""
        made = self.store.job(client, ask.again.job)
        if ask.again.sound not in [sound.get("video") for sound in made.result.get("sounds", ())]:
            raise NotFoundError(f"that job has no sound {ask.again.sound!r}; it may not have ended.")
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
        """Expected time until a job that waits begins, or a new one of a new client would, if nobody comes meanwhile."""
        now, order = time.time(), self.queue.order()
        before = next((number for number, one in enumerate(order) if one.job == job), len(order))
        waits = sum(map(self._expected, order[:before]))
        running = sum(max(0.0, self._expected(one) - (now - started)) for started, one in list(self._running.values()))
        return (waits + running) / self.engine.lanes

    def _expected(self, one: Waiting) -> float:
        if one.model in self._speeds:
            return one.seconds * median(self._speeds[one.model])
        overrun = [(time.time() - started) / running.seconds for started, running in list(self._running.values())]
        return one.seconds * max([1.0, *overrun])  # before any was measured

    def _learn(self, model: str, speed: float) -> None:
        self._speeds[model] = (*self._speeds.get(model, ())[1 - _MEASUREMENTS :], speed)

    def view(self, job: Job) -> dict[str, Any]:
        """A job as its client sees it."""
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
        """Ask a job to stop; what is sampled by then is kept."""
        if self.queue.remove(job.id):
            self._end(job.id, "stopped", "stopped before it began.")
        elif job.state == "running":
            (self.store.folder_of(job) / STOP).touch()

    def forget(self, job: Job) -> None:
        """Delete a job and its results; one that runs is stopped first and deleted when its results expire."""
        self.stop(job)
        if self.store.job(None, job.id).state in ENDED:
            self.store.delete("jobs", job.id)

    async def events(self, job: Job) -> AsyncIterator[dict[str, Any]]:
        """What happens to a job until it ends: its state now, then every change."""
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
        """Pass an event on to the listeners, in the thread of the event loop."""

        def touch() -> None:
            live = self.live.get(id)
            if live is not None:
                live.take_in(event)
                before, live.changed = live.changed, asyncio.Event()
                before.set()

        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(touch)

    def _work(self, is_first: bool) -> None:
        """A lane: one job after another, in this thread alone."""
        if is_first:
            try:
                self.engine.warm()
            except Exception:
                log.exception("the model cannot be loaded")
        self.is_warm = True
        while (one := self.queue.take()) is not None:
            try:
                self._do(self.store.job(None, one.job), one)
            except Exception:  # such as a full disk; other jobs go on
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
            why = "" if state == "done" or result["sounds"] else "stopped before anything was sampled."
            ended = state, why, result
        except UnsilentError as error:
            ended = "failed", without_folders(str(error)), {}
        except Exception as error:
            log.exception("a defect of unsilent, please report it:")
            ended = "failed", f"a defect of unsilent ({type(error).__name__}); its operator finds more in the log.", {}
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
    """A sentence without the folders of the paths in it, because a client must not learn them."""
    return _FOLDER.sub("", sentence)
