"""What a classifier says of many files, kept on disk as it comes, so that an interrupted evaluation goes on where it was."""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from pathlib import Path

import numpy as np
from jaxtyping import Float

from unsilent.errors import DataError, MediaError, UnsilentError
from unsilent.metrics.judge import Judge, load_judge
from unsilent.metrics.sounds import Sound
from unsilent.version import __version__

_KEY_BYTES = 16  # of the digest of a file's content


class Hearing:
    """Features and logits by the content of files, in one file that only ever grows.

    Args:
        folder: made if absent; the file in it is named by the classifier's digest and by our version,
            since another may prepare sounds otherwise.
        judge: whose results are kept.

    Raises:
        DataError: if the folder cannot be written.
    """

    def __init__(self, folder: Path, judge: Judge) -> None:
        self.judge, self.path = judge, folder / f"{judge.digest}-{__version__}.rows"
        self._row = np.dtype([("key", f"V{_KEY_BYTES}"), ("features", "<f4", judge.dim), ("logits", "<f4", len(judge.classes))])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:  # a row that was cut off by a kill goes
                file.truncate(file.tell() // self._row.itemsize * self._row.itemsize)
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror}.") from None
        self._places = {bytes(key): place for place, key in enumerate(self._rows()["key"])}

    def _rows(self) -> np.ndarray:
        if not self.path.stat().st_size:
            return np.zeros(0, self._row)  # nothing cannot be mapped
        return np.memmap(self.path, self._row, mode="r")

    def missing(self, keys: dict[Sound, bytes]) -> list[Sound]:
        """The first sound of each content that was not judged yet."""
        waiting = {key: sound for sound, key in reversed(keys.items()) if key not in self._places}
        return [sound for sound, key in keys.items() if waiting.get(key) is sound]

    def judge_all(
        self,
        waiting: Sequence[Sound],
        keys: dict[Sound, bytes],
        workers: int = 1,
        progress: Callable[[int, Sound], None] = lambda done, sound: None,
    ) -> dict[bytes, str]:
        """Judge sounds and keep the results.

        Args:
            waiting: what `missing` has given.
            keys: of their contents.
            workers: processes, each on one thread; 1 works in this one.
            progress: told how many are done, and which is next.

        Returns:
            Why files cannot be judged, by content.

        Raises:
            DataError: if a worker is killed.
        """
        bad, place = {}, len(self._places)
        with self.path.open("ab", buffering=0) as file, closing(self._results(waiting, workers)) as results:
            for number, sound in enumerate(waiting):
                progress(number, sound)
                result = next(results)
                if isinstance(result, str):
                    bad[keys[sound]] = result
                    continue
                row = np.zeros((), self._row)
                row["key"], row["features"], row["logits"] = np.void(keys[sound]), *result
                file.write(row.tobytes())
                self._places[keys[sound]] = place
                place += 1
        return bad

    def _results(self, waiting: Sequence[Sound], workers: int) -> Iterator["_Result"]:
        if workers == 1 or len(waiting) < 2:
            yield from (_hear(self.judge, sound) for sound in waiting)
            return
        start = (str(self.judge.folder), self.judge.last.weight.device.type)
        # a fresh interpreter: one that was forked shares locks of threads that it does not have
        pool = ProcessPoolExecutor(min(workers, len(waiting)), multiprocessing.get_context("spawn"), _start_worker, start)
        try:
            yield from pool.map(_hear_in_worker, waiting)
        except BrokenProcessPool:
            raise DataError("a worker ended before its work was done, perhaps for lack of memory; go on with fewer --workers.") from None
        finally:
            pool.shutdown(cancel_futures=True)

    def of(self, keys: Sequence[bytes]) -> tuple[Float[np.ndarray, "samples dim"], Float[np.ndarray, "samples labels"]]:
        """Features and logits of contents that were judged, in their order."""
        rows = self._rows()[[self._places[key] for key in keys]]
        return rows["features"], rows["logits"]


def digest(sound: Sound) -> bytes:
    """What a file's content is known by; mels and sounds of one content differ."""
    with sound.path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha256(b"mel" if sound.is_mel else b"")).digest()[:_KEY_BYTES]


_Result = tuple[np.ndarray, np.ndarray] | str
_judge: Judge | None = None  # of a worker process


def _start_worker(folder: str, device: str) -> None:
    global _judge
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that gives out the work
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _judge = load_judge(folder, device)


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _hear_in_worker(sound: Sound) -> _Result:
    return _hear(_judge, sound)


def _hear(judge: Judge, sound: Sound) -> _Result:
    try:
        return judge.hear(judge.read(sound))
    except (MediaError, OSError) as error:
        return str(error) if isinstance(error, UnsilentError) else f"{sound.path} cannot be read: {error.strerror}."
