"""Metrics of all folders from classifier results. They depend on neither the order of files nor the number of workers."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unsilent.errors import DataError
from unsilent.evaluation.cache import ResultCache
from unsilent.evaluation.classifier import Classifier
from unsilent.evaluation.classify import Failures
from unsilent.evaluation.ground_truth import Labels
from unsilent.evaluation.inputs import ABOUT_KEYS, SETTING, Folder, Inputs
from unsilent.evaluation.scores import Classified, ClassScores, Estimate, accuracy, by_class, fidelity, inception, relevance
from unsilent.evaluation.sounds import Sound
from unsilent.metrics.statistics import log_softmax


@dataclass(frozen=True)
class Sample:
    """One file. If it could not be classified, `why` is the reason, and the later fields are empty.

    Attributes:
        system: name of the folder.
        clip: reference clip; None for an unpaired file.
        sound: the file.
        why: reason why the file was left out; empty if it was classified.
        predicted, probability: the most probable class, and its probability.
        mkl, top1, top5: the file's contributions to these metrics; None if it does not count.
    """

    system: str
    clip: str | None
    sound: Sound
    why: str = ""
    predicted: str = ""
    probability: float | None = None
    mkl: float | None = None
    top1: bool | None = None
    top5: bool | None = None


@dataclass(frozen=True)
class System:
    """Results of one folder.

    Attributes:
        name, settings: see `Folder`.
        scores: estimates by metric, without metrics that cannot be computed.
        classes: estimates by label.
        samples: all files.
        unpaired: names of sounds without a reference clip.
        missing: reference clips without a sound in this folder.
        warnings: limitations of all metrics of this folder.
    """

    name: str
    settings: dict[str, Any]
    scores: dict[str, Estimate]
    classes: list[ClassScores]
    samples: list[Sample]
    unpaired: list[str]
    missing: list[str]
    warnings: list[str]

    @property
    def failed(self) -> list[Sample]:
        """Files that could not be classified."""
        return [sample for sample in self.samples if sample.why]


@dataclass(frozen=True)
class Evaluation:
    """Results of all folders.

    Attributes:
        classifier: the classifier of the metrics.
        real: results of the reference; they test the classifier.
        halves: FID and KID of one half of the reference against the other, like those of a perfect system with half as many clips.
        systems: results of each generated folder, in the given order.
        labels: labels of the reference clips.
        seed: seed of all intervals and halves.
        n_classified: number of sounds classified for this evaluation; other results were in the cache.
    """

    classifier: Classifier
    real: System
    halves: dict[str, Estimate]
    systems: list[System]
    labels: Labels
    seed: int
    n_classified: int

    @property
    def folders(self) -> list[System]:
        """The reference, then the systems."""
        return [self.real, *self.systems]


def compute_metrics(
    inputs: Inputs,
    cache: ResultCache,
    failures: Failures,
    seed: int = 0,
    progress: Callable[[int, str], None] = lambda done, name: None,
) -> Evaluation:
    """Compute all metrics.

    Args:
        inputs: the files.
        cache: classifier results.
        failures: result of `classify_all`.
        seed: seed of the resamples for intervals, and of the halves of the reference.
        progress: called with the number of finished folders and the name of the next one. With 2048 features and as many sounds, a folder
            takes several minutes, nearly all for the interval of FID.

    Raises:
        DataError: if no sound of a folder could be classified.
    """
    classified = [_classified(folder, inputs, cache, failures) for folder in inputs.folders]
    real, systems = classified[0], []
    for done, (folder, generated) in enumerate(zip(inputs.folders, classified, strict=True)):
        progress(done, folder.name)
        systems.append(_system(folder, generated, real, inputs, failures, cache.classifier, seed))
    order = np.random.default_rng(seed).permutation(len(real.sounds))
    halves = [real.take(np.sort(half)) for half in np.array_split(order, 2)]
    return Evaluation(cache.classifier, systems[0], fidelity(*halves, seed), systems[1:], inputs.labels, seed, cache.n_added)


def _classified(folder: Folder, inputs: Inputs, cache: ResultCache, failures: Failures) -> Classified:
    good = [row for row, sound in enumerate(folder.sounds) if inputs.keys[sound] not in failures]
    if not good:
        why = failures[inputs.keys[folder.sounds[0]]]
        raise DataError(f"none of the {len(folder.sounds)} sounds in {folder.path} can be classified; the first one: {why}")
    sounds = [folder.sounds[row] for row in good]
    return Classified(sounds, [folder.clips[row] for row in good], *cache.get([inputs.keys[sound] for sound in sounds]))


def _system(
    folder: Folder, generated: Classified, real: Classified, inputs: Inputs, failures: Failures, classifier: Classifier, seed: int
) -> System:
    scores, per_sample = {}, {}
    if generated is not real:
        mkl, per_sample["mkl"] = relevance(real, generated, seed)
        scores = fidelity(real, generated, seed) | mkl
    accuracies, hits = accuracy(generated, classifier, inputs.labels, seed)
    scores |= inception(generated, classifier, seed) | accuracies
    per_sample |= hits
    probabilities = np.exp(log_softmax(generated.logits))
    samples = {
        sound: Sample(folder.name, clip, sound, failures.get(inputs.keys[sound], ""))
        for sound, clip in zip(folder.sounds, folder.clips, strict=True)
    }
    for row, sound in enumerate(generated.sounds):
        best = int(probabilities[row].argmax())
        values = {name: _plain(column[row], name) for name, column in per_sample.items()}
        predicted = (classifier.classes[best], float(probabilities[row, best]))
        samples[sound] = Sample(folder.name, generated.clips[row], sound, "", *predicted, **values)
    covered = set(generated.clips)
    return System(
        folder.name,
        folder.settings,
        scores,
        by_class(generated, inputs.labels, per_sample, seed),
        list(samples.values()),
        [sound.name for sound, clip in zip(generated.sounds, generated.clips, strict=True) if clip is None],
        [clip for clip in real.clips if clip not in covered],
        _warnings(folder, generated, real),
    )


def _warnings(folder: Folder, generated: Classified, real: Classified) -> list[str]:
    left_out, mels = len(folder.sounds) - len(generated.sounds), sum(sound.is_mel for sound in generated.sounds)
    warnings = []
    if left_out:
        warnings.append(
            f"{left_out} of {len(folder.sounds)} files could not be classified and are left out, which favours a system that fails"
        )
    if 0 < mels < len(generated.sounds):
        warnings.append(f"{mels} were classified as mels, the others as sounds")
    elif (mels > 0) != any(sound.is_mel for sound in real.sounds):
        warnings.append(f"classified as {'mels' if mels else 'sounds'}, the reference as {'sounds' if mels else 'mels'}")
    return warnings


def _plain(value: float, name: str) -> float | bool | None:
    """A Python float or bool; None for NaN."""
    if np.isnan(value):
        return None
    return float(value) if name == "mkl" else bool(value)


def sweeps(systems: Sequence[System]) -> dict[str, dict[str, list[tuple[float, System]]]]:
    """Settings that vary between systems of one model: by setting and model, the systems sorted by value."""
    found: dict[str, dict[str, list[tuple[float, System]]]] = {}
    for setting in ("top_k", "temperature", *sorted({name for system in systems for name in system.settings} - set(ABOUT_KEYS))):
        lines: dict[str, list[tuple[float, System]]] = {}
        for system in systems:
            value = system.settings.get(setting)
            if isinstance(value, int | float):
                others = {name: other for name, other in system.settings.items() if name not in (setting, "model", "seed")}
                model = str(system.settings.get("model") or SETTING.sub("", os.path.basename(system.name)) or "samples")
                line = ", ".join([model, *(f"{name} {other:g}" for name, other in sorted(others.items()))])
                lines.setdefault(line, []).append((float(value), system))
        lines = {line: sorted(points, key=lambda point: point[0]) for line, points in lines.items() if len({x for x, _ in points}) > 1}
        if lines:
            found[setting] = lines
    return found
