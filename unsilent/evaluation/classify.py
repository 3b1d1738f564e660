"""A classifier's judgement of many sounds, spread over processes or machines; what was judged before stays."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from operator import attrgetter

from unsilent.evaluation.cache import Result, ResultCache
from unsilent.evaluation.classifier import Classifier, load_classifier
from unsilent.evaluation.sounds import Sound
from unsilent.jobs.parallel import Failed, Parallel, map_ordered
from unsilent.speed.threads import one_thread


@dataclass(frozen=True)
class Listener:
    """Judges sounds; a worker calls it once for the loaded classifier.

    Attributes:
        classifier: as `load_classifier` wants it.
        device: likewise.
    """

    classifier: str
    device: str

    def __call__(self) -> Callable[[Sound], Result]:
        """Loads the classifier."""
        return _hearing_by(load_classifier(self.classifier, self.device))


def _hearing_by(judge: Classifier) -> Callable[[Sound], Result]:
    def hear(sound: Sound) -> Result:
        with one_thread():
            return judge.classify(judge.read(sound))

    return hear


def classify_all(
    hearing: ResultCache,
    keys: dict[Sound, bytes],
    parallel: Parallel = Parallel(),
    progress: Callable[[int, int, Sound], None] = lambda done, total, sound: None,
) -> dict[bytes, str]:
    """Classifier the sounds that were not judged before, and keep the results.

    Args:
        hearing: where results are kept, with the classifier.
        keys: all sounds, with what their contents are known by.
        parallel: where to run.
        progress: told how many are done, of how many, and which one was the last.

    Returns:
        Why files cannot be judged, by content.
    """
    waiting, judge, bad = hearing.missing(keys), hearing.judge, dict[bytes, str]()
    if not waiting:
        return bad

    def here() -> Callable[[Sound], Result]:
        return _hearing_by(judge)

    build = here if parallel == Parallel() else Listener(str(judge.folder), judge.last.weight.device.type)

    def good() -> Iterator[tuple[bytes, Result]]:
        results = map_ordered(build, waiting, parallel, attrgetter("name"))
        with closing(results):
            for done, (sound, heard) in enumerate(results, start=1):
                if isinstance(heard, Failed):
                    bad[keys[sound]] = heard.reason
                else:
                    yield keys[sound], heard
                progress(done, len(waiting), sound)

    for _ in hearing.keep(good()):
        pass
    return bad
