"""Classifies many sounds, over processes or machines; cached results are reused."""

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from operator import attrgetter

from unsilent.choices import Device
from unsilent.evaluation.cache import ResultCache
from unsilent.evaluation.classifier import Classifier, Result, load_classifier
from unsilent.evaluation.sounds import Sound
from unsilent.jobs.parallel import Failed, Parallel, map_ordered
from unsilent.speed.threads import one_thread

Failures = dict[bytes, str]  # content key → reason why the file cannot be classified


@dataclass(frozen=True)
class _LoadInWorker:
    """Picklable loader of the classifier, which each worker calls once."""

    classifier: str
    device: Device
    keeps_silence: bool

    def __call__(self) -> Callable[[Sound], Result]:
        return _classify_by(load_classifier(self.classifier, self.device, self.keeps_silence))


def _classify_by(classifier: Classifier) -> Callable[[Sound], Result]:
    def classify(sound: Sound) -> Result:
        with one_thread():
            return classifier.classify(classifier.read_mel01(sound))

    return classify


def classify_all(
    cache: ResultCache,
    keys: dict[Sound, bytes],
    parallel: Parallel = Parallel(),
    progress: Callable[[int, int, Sound], None] = lambda done, total, sound: None,
) -> Failures:
    """Classify the sounds that are not in the cache, and add their results to it.

    Args:
        cache: cache of results; it has the classifier.
        keys: content keys of all sounds.
        parallel: where the job runs.
        progress: called with the number of finished sounds, their total, and the last sound.
    """
    waiting, classifier, failures = cache.missing(keys), cache.classifier, Failures()
    if not waiting:
        return failures

    def here() -> Callable[[Sound], Result]:
        return _classify_by(classifier)

    device = classifier.output_layer.weight.device.type
    build = here if parallel == Parallel() else _LoadInWorker(str(classifier.folder), device, classifier.keeps_silence)

    def good() -> Iterator[tuple[bytes, Result]]:
        with closing(map_ordered(build, waiting, parallel, attrgetter("name"))) as results:
            for done, (sound, result) in enumerate(results, start=1):
                if isinstance(result, Failed):
                    failures[keys[sound]] = result.reason
                else:
                    yield keys[sound], result
                progress(done, len(waiting), sound)

    for _ in cache.add(good()):
        pass
    return failures
