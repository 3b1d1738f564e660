"""Figures of one folder of judged sounds, each with its 95 % interval, what it was counted over, and what speaks against it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unsilent.evaluation.classifier import Classifier
from unsilent.evaluation.ground_truth import Truth
from unsilent.evaluation.sounds import Sound
from unsilent.metrics.classification import Measure, hits, mean_area_under_curve, mean_average_precision, tells_apart
from unsilent.metrics.fid import fid
from unsilent.metrics.inception_score import inception_score
from unsilent.metrics.kid import kid
from unsilent.metrics.mkl import divergences
from unsilent.metrics.resampling import LEAST_CLIPS, interval_of_mean, interval_of_sets

TOP = {"top1": 1, "top5": 5}
PARTS = 10  # of an inception score
_STUDENT_95 = 2.262  # deviations of a mean over ten parts
KID_SUBSET = 1000
_KID_SUBSETS = 10  # of a resample; the figure itself takes the authors' hundred


@dataclass(frozen=True)
class Figure:
    """One number.

    Attributes:
        value: the number.
        interval: its 95 %; None where there are too few clips to draw from.
        spread: population standard deviation over KID's subsets, or the inception score's parts; None for the others.
        samples, clips: generated (or, of the reference, real) sounds it is of, and the clips they are of.
        real: sounds of the reference it is of; 0 where none take part.
        seed: of the draws behind the interval.
        warnings: what speaks against it.
    """

    value: float
    interval: tuple[float, float] | None
    samples: int
    clips: int
    real: int
    seed: int
    spread: float | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ClassFigures:
    """Relevance and accuracy of the clips with one label; a figure is missing where nothing can be counted."""

    label: str
    figures: dict[str, Figure]


@dataclass(frozen=True)
class Judged:
    """What the classifier said of the good sounds of one folder, in the order of their names.

    Attributes:
        sounds: that were judged.
        clips: of the reference that each is a sample of; None where there is none.
        features, logits: one row each.
    """

    sounds: list[Sound]
    clips: list[str | None]
    features: Float[np.ndarray, "samples dim"]
    logits: Float[np.ndarray, "samples labels"]

    def groups(self) -> list[np.ndarray]:
        """Numbers of the rows of each clip; a sound without one stands alone."""
        rows: dict[tuple[bool, str], list[int]] = {}
        for row, (sound, clip) in enumerate(zip(self.sounds, self.clips, strict=True)):
            rows.setdefault((clip is None, sound.name if clip is None else clip), []).append(row)
        return [np.array(one) for one in rows.values()]

    def take(self, rows: Sequence[int] | np.ndarray) -> "Judged":
        """Some of the rows."""
        return Judged([self.sounds[row] for row in rows], [self.clips[row] for row in rows], self.features[rows], self.logits[rows])


def fidelity(real: Judged, made: Judged, seed: int) -> dict[str, Figure]:
    """FID and KID of all sounds, paired or not; none where a set has less than 2."""
    sizes = (len(real.sounds), len(made.sounds))
    if min(sizes) < 2:
        return {}
    dim, groups = real.features.shape[1], (real.groups(), made.groups())
    counts = {"samples": sizes[1], "clips": len(groups[1]), "real": sizes[0], "seed": seed}
    unequal = (
        [f"the sets differ in size ({sizes[0]} real, {sizes[1]} generated), and few rows make FID large"] if sizes[0] != sizes[1] else []
    )
    few = [f"{min(sizes)} rows for {dim} numbers in a feature: much of this FID is the small sample's"] if min(sizes) <= dim else []
    whole = min(sizes) <= KID_SUBSET
    same = [f"every subset holds all {min(sizes)} rows of a set: their deviation is too small"] if whole else []

    def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
        return fid(real.features[ours], made.features[theirs])

    def discrepancy(ours: np.ndarray, theirs: np.ndarray) -> float:
        return kid(real.features[ours], made.features[theirs], 1 if whole else _KID_SUBSETS, KID_SUBSET).value

    value, score = fid(real.features, made.features), kid(real.features, made.features, subset_size=KID_SUBSET)
    return {
        "fid": Figure(value, _around(distance, value, groups, seed, least=0.0), **counts, warnings=(*few, *unequal)),
        "kid": Figure(score.value, _around(discrepancy, score.value, groups, seed), **counts, spread=score.std, warnings=tuple(same)),
    }


def variety(made: Judged, judge: Classifier, seed: int) -> dict[str, Figure]:
    """Inception score; none of less than ten sounds."""
    size, groups = len(made.sounds), made.groups()
    if size < PARTS:
        return {}
    logits = judge.unbiased(made.logits)
    score = inception_score(logits, PARTS)
    part = size // PARTS
    few = (f"parts of {part} sounds cannot score more than {part}",) if part < len(judge.classes) else ()
    reach = _STUDENT_95 * score.std / (PARTS - 1) ** 0.5  # smaller parts would have another score, so nothing is drawn again
    interval = (score.value - reach, score.value + reach)
    return {"inception_score": Figure(score.value, interval, size, len(groups), 0, seed, score.std, few)}


def relevance(real: Judged, made: Judged, seed: int) -> tuple[dict[str, Figure], Float[np.ndarray, "samples"]]:
    """MKL of the paired sounds, and what each of all sounds adds to it; NaN for those without a pair."""
    places = {clip: row for row, clip in enumerate(real.clips)}
    rows = np.array([places.get(clip, -1) for clip in made.clips])
    apart, paired = np.full(len(rows), np.nan), rows >= 0
    if paired.any():
        apart[paired] = divergences(real.logits[rows[paired]], made.logits[paired])
    return _means({"mkl": apart}, made.clips, seed, "a pair", paired=True), apart


def accuracy(made: Judged, judge: Classifier, truth: Truth, seed: int) -> tuple[dict[str, Figure], dict[str, np.ndarray]]:
    """Top-1, top-5, mean average precision and area under the curve of the sounds with a label that the classifier knows.

    Returns:
        The figures, and for each of `TOP` whether each of all sounds was hit: 1, 0, or NaN where it has no such label.
    """
    targets = judge.truth([truth.get(clip or "", frozenset()) for clip in made.clips])
    known = np.flatnonzero(targets.any(1))
    found = {name: np.full(len(targets), np.nan) for name in TOP}
    if not len(known):
        return {}, found
    logits, targets = made.logits[known], targets[known]
    for name, k in TOP.items():
        found[name][known] = hits(logits, targets, k)
    figures = _means(found, made.clips, seed, "a label that the classifier knows")
    if tells_apart(targets):
        groups, warnings = made.take(known).groups(), figures["top1"].warnings
        for name, measure in (("map", mean_average_precision), ("mauc", mean_area_under_curve)):

            def of_rows(rows: np.ndarray, measure: Measure = measure) -> float:
                return measure(logits[rows], targets[rows]) if tells_apart(targets[rows]) else np.nan

            value = measure(logits, targets)
            interval = _around(of_rows, value, (groups,), seed, least=0.0, most=1.0)
            figures[name] = Figure(value, interval, len(known), len(groups), 0, seed, warnings=warnings)
    return figures, found


def by_class(made: Judged, truth: Truth, per_sample: dict[str, Float[np.ndarray, "samples"]], seed: int) -> list[ClassFigures]:
    """Means of what each sample adds, by the labels of its clip; a clip with several labels counts for each."""
    rows: dict[str, list[int]] = {}
    for row, clip in enumerate(made.clips):
        for label in truth.get(clip or "", ()):
            rows.setdefault(label, []).append(row)
    return [
        ClassFigures(
            label,
            _means({name: values[rows[label]] for name, values in per_sample.items()}, [made.clips[row] for row in rows[label]], seed),
        )
        for label in sorted(rows)
    ]


def _means(
    per_sample: dict[str, Float[np.ndarray, "samples"]], clips: Sequence[str | None], seed: int, wanted: str = "", paired: bool = False
) -> dict[str, Figure]:
    """Means of what is a number; figures of which nothing is are left out, and `wanted` says what the others lack."""
    figures = {}
    for name, values in per_sample.items():
        counted = np.flatnonzero(~np.isnan(values))
        if len(counted):
            _, clip_of = np.unique([clips[row] for row in counted], return_inverse=True)
            sums, counts = np.bincount(clip_of, values[counted]), np.bincount(clip_of)
            interval = interval_of_mean(sums, counts, seed) if len(sums) > 1 else None
            left = len(values) - len(counted)
            warnings = (f"{left} sounds without {wanted} are left out",) if left and wanted else ()
            real = len(sums) if paired else 0
            figures[name] = Figure(float(values[counted].mean()), interval, len(counted), len(sums), real, seed, warnings=warnings)
    return figures


def _around(
    statistic: Callable[..., float],
    value: float,
    groups: Sequence[Sequence[np.ndarray]],
    seed: int,
    least: float = -np.inf,
    most: float = np.inf,
) -> tuple[float, float] | None:
    """The interval of what is counted of whole sets, within what is possible; None where halves would be too small."""
    if min(map(len, groups)) < LEAST_CLIPS:
        return None
    low, high = interval_of_sets(statistic, value, groups, seed)
    return max(least, low), min(most, high)
