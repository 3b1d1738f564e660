"""Metrics of one folder, each with a 95 % interval, sample counts and warnings."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unsilent.evaluation.classifier import Classifier
from unsilent.evaluation.ground_truth import Labels
from unsilent.evaluation.sounds import Sound
from unsilent.metrics.classification import Measure, hits, mean_area_under_curve, mean_average_precision, varies
from unsilent.metrics.fid import fid
from unsilent.metrics.inception_score import inception_score
from unsilent.metrics.kid import kid
from unsilent.metrics.mkl import divergences
from unsilent.metrics.resampling import MIN_CLIPS, Interval, interval_of_mean, interval_of_sets

TOP = {"top1": 1, "top5": 5}
PARTS = 10  # parts of an inception score
_STUDENT_95 = 2.262  # two-sided 95 % quantile of Student's t with 9 degrees of freedom
KID_SUBSET = 1000
_KID_SUBSETS = 10  # subsets for intervals; the value itself has the authors' 100


@dataclass(frozen=True)
class Estimate:
    """One metric. Field names are keys of `report.json`.

    Attributes:
        value: value of the metric.
        interval: 95 % confidence interval; None with too few clips.
        spread: population standard deviation over KID's subsets or the inception score's parts; None for other metrics.
        samples, clips: number of sounds, and of their clips.
        real: number of reference sounds in the comparison; 0 for metrics without a reference.
        seed: seed of the resamples for the interval.
        warnings: limitations of the value.
    """

    value: float
    interval: Interval | None
    samples: int
    clips: int
    real: int
    seed: int
    spread: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassScores:
    """MKL and accuracy of the clips with one label, without metrics that have no samples."""

    label: str
    scores: dict[str, Estimate]


@dataclass(frozen=True)
class Classified:
    """Classifier results of the readable sounds of one folder, in the order of their names.

    Attributes:
        sounds: the classified sounds.
        clips: reference clip of each sound; None for an unpaired sound.
        features, logits: one row for each sound.
    """

    sounds: list[Sound]
    clips: list[str | None]
    features: Float[np.ndarray, "samples dim"]
    logits: Float[np.ndarray, "samples labels"]

    def groups(self) -> list[np.ndarray]:
        """Row numbers of each clip; an unpaired sound is its own group."""
        rows: dict[tuple[bool, str], list[int]] = {}
        for row, (sound, clip) in enumerate(zip(self.sounds, self.clips, strict=True)):
            rows.setdefault((clip is None, sound.name if clip is None else clip), []).append(row)
        return [np.array(one) for one in rows.values()]

    def take(self, rows: Sequence[int] | np.ndarray) -> "Classified":
        """The rows with these numbers."""
        return Classified([self.sounds[row] for row in rows], [self.clips[row] for row in rows], self.features[rows], self.logits[rows])


def fidelity(real: Classified, generated: Classified, seed: int) -> dict[str, Estimate]:
    """FID and KID of all sounds, paired or not; empty if a set has fewer than 2 sounds."""
    sizes = (len(real.sounds), len(generated.sounds))
    if min(sizes) < 2:
        return {}
    dim, groups = real.features.shape[1], (real.groups(), generated.groups())
    counts = {"samples": sizes[1], "clips": len(groups[1]), "real": sizes[0], "seed": seed}
    unequal = (
        [f"the sets differ in size ({sizes[0]} real, {sizes[1]} generated), and FID is larger for fewer rows"]
        if sizes[0] != sizes[1]
        else []
    )
    few = [f"{min(sizes)} rows for {dim} feature dimensions: much of this FID is the bias of a small sample"] if min(sizes) <= dim else []
    all_rows = min(sizes) <= KID_SUBSET
    same = [f"every subset contains all {min(sizes)} rows of a set: the deviation over subsets is too small"] if all_rows else []

    def distance(real_rows: np.ndarray, generated_rows: np.ndarray) -> float:
        return fid(real.features[real_rows], generated.features[generated_rows])

    def discrepancy(real_rows: np.ndarray, generated_rows: np.ndarray) -> float:
        subsets = 1 if all_rows else _KID_SUBSETS
        return kid(real.features[real_rows], generated.features[generated_rows], subsets, KID_SUBSET).value

    value, score = fid(real.features, generated.features), kid(real.features, generated.features, subset_size=KID_SUBSET)
    return {
        "fid": Estimate(value, _set_interval(distance, value, groups, seed, minimum=0.0), **counts, warnings=(*few, *unequal)),
        "kid": Estimate(
            score.value, _set_interval(discrepancy, score.value, groups, seed), **counts, spread=score.std, warnings=tuple(same)
        ),
    }


def inception(generated: Classified, classifier: Classifier, seed: int) -> dict[str, Estimate]:
    """Inception score; empty with fewer than 10 sounds."""
    size, groups = len(generated.sounds), generated.groups()
    if size < PARTS:
        return {}
    score = inception_score(classifier.without_bias(generated.logits), PARTS)
    part = size // PARTS
    few = (f"parts of {part} sounds cannot score more than {part}",) if part < len(classifier.classes) else ()
    reach = _STUDENT_95 * score.std / (PARTS - 1) ** 0.5  # not by resampling, because smaller parts have lower scores
    interval = (score.value - reach, score.value + reach)
    return {"inception_score": Estimate(score.value, interval, size, len(groups), 0, seed, score.std, few)}


def relevance(real: Classified, generated: Classified, seed: int) -> tuple[dict[str, Estimate], Float[np.ndarray, "samples"]]:
    """MKL of the paired sounds, and the divergence of each sound, NaN for unpaired sounds."""
    row_of = {clip: row for row, clip in enumerate(real.clips)}
    rows = np.array([row_of.get(clip, -1) for clip in generated.clips])
    divergence, paired = np.full(len(rows), np.nan), rows >= 0
    if paired.any():
        divergence[paired] = divergences(real.logits[rows[paired]], generated.logits[paired])
    return _means({"mkl": divergence}, generated.clips, seed, "a pair", paired=True), divergence


def accuracy(
    generated: Classified, classifier: Classifier, labels: Labels, seed: int
) -> tuple[dict[str, Estimate], dict[str, Float[np.ndarray, "samples"]]]:
    """Top-1 and top-5 accuracy, mean average precision and area under the ROC curve of the sounds that have a label among the classes.

    Returns:
        The metrics, and for each of `TOP` whether each sound is a hit: 1, 0, or NaN without such a label.
    """
    targets = classifier.targets([labels.get(clip or "", frozenset()) for clip in generated.clips])
    known = np.flatnonzero(targets.any(1))
    per_sample = {name: np.full(len(targets), np.nan) for name in TOP}
    if not len(known):
        return {}, per_sample
    logits, targets = generated.logits[known], targets[known]
    for name, k in TOP.items():
        per_sample[name][known] = hits(logits, targets, k)
    scores = _means(per_sample, generated.clips, seed, "a label among the classifier's classes")
    if varies(targets):
        groups, warnings = generated.take(known).groups(), scores["top1"].warnings
        for name, measure in (("map", mean_average_precision), ("mauc", mean_area_under_curve)):

            def of_rows(rows: np.ndarray, measure: Measure = measure) -> float:
                return measure(logits[rows], targets[rows]) if varies(targets[rows]) else np.nan

            value = measure(logits, targets)
            interval = _set_interval(of_rows, value, (groups,), seed, minimum=0.0, maximum=1.0)
            scores[name] = Estimate(value, interval, len(known), len(groups), 0, seed, warnings=warnings)
    return scores, per_sample


def by_class(generated: Classified, labels: Labels, per_sample: dict[str, Float[np.ndarray, "samples"]], seed: int) -> list[ClassScores]:
    """Means of per-sample metrics by the labels of the clips; a clip with several labels counts for each."""
    rows: dict[str, list[int]] = {}
    for row, clip in enumerate(generated.clips):
        for label in labels.get(clip or "", ()):
            rows.setdefault(label, []).append(row)
    return [
        ClassScores(
            label,
            _means({name: values[rows[label]] for name, values in per_sample.items()}, [generated.clips[row] for row in rows[label]], seed),
        )
        for label in sorted(rows)
    ]


def _means(
    per_sample: dict[str, Float[np.ndarray, "samples"]], clips: Sequence[str | None], seed: int, required: str = "", paired: bool = False
) -> dict[str, Estimate]:
    """Means over values that are not NaN; metrics that are all NaN are left out. A warning counts the sounds without `required`."""
    scores = {}
    for name, values in per_sample.items():
        counted = np.flatnonzero(~np.isnan(values))
        if len(counted):
            _, clip_of = np.unique([clips[row] for row in counted], return_inverse=True)
            sums, counts = np.bincount(clip_of, values[counted]), np.bincount(clip_of)
            interval = interval_of_mean(sums, counts, seed) if len(sums) > 1 else None
            left_out = len(values) - len(counted)
            warnings = (f"{left_out} sounds without {required} are left out",) if left_out and required else ()
            real = len(sums) if paired else 0
            scores[name] = Estimate(float(values[counted].mean()), interval, len(counted), len(sums), real, seed, warnings=warnings)
    return scores


def _set_interval(
    statistic: Callable[..., float],
    value: float,
    groups: Sequence[Sequence[np.ndarray]],
    seed: int,
    minimum: float = -np.inf,
    maximum: float = np.inf,
) -> Interval | None:
    """Interval of a metric of whole sets, clipped to the metric's range; None with too few clips."""
    if min(map(len, groups)) < MIN_CLIPS:
        return None
    low, high = interval_of_sets(statistic, value, groups, seed)
    return max(minimum, low), min(maximum, high)
