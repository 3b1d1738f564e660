"""Impacts: F1 of visible impacts detected in a video against the onsets of its own sound.

    python benchmarks/impacts.py CLIPS.csv [--leave-out TEXT ...] [--fit] [--seed 0]

CLIPS.csv has one row per clip with the columns `path` (relative to the table), `split` (train or valid), `scene` and `visible_impacts`;
only rows with 1 in the last column are used. For each curve it prints F1 at 50 and 100 ms, with 95 % intervals over clips in brackets, and
F1 at chance level: of circularly shifted times, and of the times of videos of other scenes. Threshold and offset are chosen on `train`,
where fitted curves use weights that were fitted to other scenes. `--fit` writes the weights of `vision.impact`, fitted to all of `train`
except paths that contain TEXT.
"""

import argparse
import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import timing

import unsilent.vision.impact as impact
from unsilent.clip import Clip
from unsilent.media.audio import read_audio
from unsilent.media.video import stream_lazy_frames
from unsilent.metrics import OnsetScore, onset_f1
from unsilent.metrics.onsets import interval_rows
from unsilent.metrics.resampling import interval_of_mean

CLIP = Clip()
TOLERANCES = (0.05, 0.1)  # seconds
WIDTH = 0.7  # frames; standard deviation of the Gaussian bump at an onset
PENALTY = 10000.0  # ridge penalty of the weights, for standardised measures
FOLDS = 5
CLEAR = 75  # percentile of clips; in that clip, the 98th percentile of the levels above their median is 1
SMALLEST = 1e-3  # minimum height that a curve is divided by
NEIGHBOURHOOD, GAP = 11, 2  # frames on each side of a peak: for the local median, and for the local maximum
THRESHOLDS = np.arange(0.3, 0.95, 0.1)  # heights above the local median
OFFSETS = np.arange(-1, 1.1, 0.5) / CLIP.feature_fps  # seconds
Ways = dict[str, Callable[[np.ndarray], np.ndarray]]
# Curves of single measures, without fitted weights: the amount of motion, and deceleration at the coarser scale.
PLAIN: Ways = {
    "amount of motion, whole frame": lambda measures: measures[:, 0],
    "amount of motion, cell with most motion": lambda measures: measures[:, impact.WHOLE],
    "deceleration, whole frame": lambda measures: measures[:, 6],
    "deceleration, cell with most deceleration": lambda measures: measures[:, impact.WHOLE + 8],
}
CHANNEL_NAMES = ("fitted, whole frame", "fitted, whole frame and cell with most motion")


@dataclass(frozen=True)
class Video:
    """Measures of a clip's frames `[frames, measures]`, and onsets of its sound in seconds."""

    path: str
    split: str
    scene: str
    measures: np.ndarray
    onsets: np.ndarray

    @property
    def seconds(self) -> float:
        """Length of the clip."""
        return len(self.measures) / CLIP.feature_fps


def main() -> None:
    """Read, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", type=Path)
    parser.add_argument("--leave-out", nargs="*", default=[], metavar="TEXT")
    parser.add_argument("--fit", action="store_true")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with options.clips.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["visible_impacts"] == "1"]
    left_out = [row for row in rows if row["split"] == "train" and any(text in row["path"] for text in options.leave_out)]
    videos = [read_video(options.clips.parent, row) for row in rows if row not in left_out]
    train, valid = ([video for video in videos if video.split == split] for split in ("train", "valid"))
    if options.fit:
        np.save(Path(impact.__file__).with_suffix(".npy"), fit(train))
        impact.weights.cache_clear()
    print_table(train, valid, options.seed)


def read_video(root: Path, row: dict[str, str]) -> Video:
    """Measure a clip and find the onsets of its sound."""
    meter = impact.ImpactMeter()
    measures = np.stack([meter.measure(frame.grey()) for frame in stream_lazy_frames(root / row["path"], CLIP.feature_fps)])
    measures[0] = measures[min(1, len(measures) - 1)]
    onsets = timing.onsets_of(read_audio(root / row["path"], CLIP.sample_rate), CLIP)
    return Video(row["path"], row["split"], row["scene"], measures, onsets[onsets < len(measures) / CLIP.feature_fps])


def fit(videos: Sequence[Video]) -> np.ndarray:
    """Fit the weights of `vision.impact` by ridge regression of `bumps` on the measures of neighbouring frames.

    The weights of each measure sum to 0 over time, so constant measures, as in a steady pan of the camera, give level 0.
    """
    shape = (-1, 2 * impact.REACH + 1, impact.MEASURES)
    terms = np.concatenate([neighbours(video.measures) for video in videos]).reshape(shape)
    terms -= terms.mean(1, keepdims=True)
    wanted, deviations = np.concatenate([bumps(video) for video in videos]), terms.std(0) + 1e-3
    terms, weights = (terms - terms.mean(0)) / deviations, np.zeros((2, *shape[1:]), np.float32)
    for channel, used in enumerate((impact.WHOLE, impact.MEASURES)):
        some = terms[:, :, :used].reshape(len(terms), -1)
        solved = np.linalg.solve(some.T @ some + PENALTY * np.eye(some.shape[1]), some.T @ (wanted - wanted.mean()))
        weights[channel, :, :used] = solved.reshape(shape[1], used) / deviations[:, :used]
    weights = (weights - weights.mean(1, keepdims=True)).reshape(2, -1)
    levels = [np.maximum(neighbours(video.measures) @ weights.T, 0) for video in videos]
    heights = [np.percentile(of_video - np.median(of_video, axis=0), 98, axis=0) for of_video in levels]
    return weights / np.percentile(heights, CLEAR, axis=0)[:, None].astype(np.float32)


def neighbours(measures: np.ndarray) -> np.ndarray:
    """Stack the measures of the neighbours of each frame to `[frames, terms]`, as in `ImpactMeter`."""
    padded = np.pad(measures, ((impact.REACH, impact.REACH), (0, 0)), mode="edge")
    return np.concatenate([padded[k : k + len(measures)] for k in range(2 * impact.REACH + 1)], axis=1)


def bumps(video: Video) -> np.ndarray:
    """Return a curve of Gaussian bumps: 1 at each onset, with a standard deviation of `WIDTH` frames."""
    distances = np.arange(len(video.measures))[:, None] - video.onsets * CLIP.feature_fps
    return np.exp(-0.5 * (distances / WIDTH) ** 2).max(1, initial=0.0)


def fitted(weights: np.ndarray) -> Ways:
    """Return functions from measures to the curve of each channel, and to both channels."""
    ways: Ways = {
        name: lambda measures, weight=weight: np.maximum(neighbours(measures) @ weight, 0)
        for name, weight in zip(CHANNEL_NAMES, weights, strict=True)
    }
    return ways | {"fitted, mean of both": lambda measures: np.maximum(neighbours(measures) @ weights.T, 0)}


def print_table(train: Sequence[Video], valid: Sequence[Video], seed: int) -> None:
    """Print the scores of each curve on both splits, at the best threshold and offset for `train`."""
    scenes = sorted({video.scene for video in train})
    np.random.default_rng(seed).shuffle(scenes)
    folds = {scene: number % FOLDS for number, scene in enumerate(scenes)}
    of_others = [fitted(fit([video for video in train if folds[video.scene] != fold])) for fold in range(FOLDS)]
    print(f"{len(train)} clips of train, {len(valid)} of valid; F1, circularly shifted, of other videos")
    for name, way in (PLAIN | fitted(impact.weights())).items():
        curves = [curve_of(video, way if name in PLAIN else of_others[folds[video.scene]][name]) for video in train]
        threshold, offset = choose(train, curves, seed)
        print(f"{name}: threshold {threshold:.1f}, offset {1000 * offset:+.0f} ms")
        for split, videos, some in (("train", train, curves), ("valid", valid, [curve_of(video, way) for video in valid])):
            found = moments(videos, some, threshold, offset)
            print(f"  {split}: {sum(map(len, found)) / sum(video.seconds for video in videos):.2f} per second", end="")
            for tolerance in TOLERANCES:
                ways = [*score(videos, found, tolerance, seed), score_others(videos, found, tolerance)]
                print(f" | {1000 * tolerance:.0f} ms", *(cell(scores, seed) for scores in ways), end="")
            print()


def curve_of(video: Video, way: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Normalise a curve as in `motion.normalise`, but without its minimum height; channels are averaged."""
    levels = way(video.measures).reshape(len(video.measures), -1)
    above = np.maximum(levels - np.median(levels, axis=0), 0)
    return np.minimum(above / np.maximum(np.percentile(above, 98, axis=0), SMALLEST), 2).mean(1)


def moments(videos: Sequence[Video], curves: Sequence[np.ndarray], threshold: float, offset: float) -> list[np.ndarray]:
    """Return the times of peaks in seconds, with sub-frame resolution."""
    found = [peaks_of(curve, threshold) / CLIP.feature_fps + offset for curve in curves]
    return [times[(times >= 0) & (times < video.seconds)] for video, times in zip(videos, found, strict=True)]


def peaks_of(curve: np.ndarray, threshold: float) -> np.ndarray:
    """Return the positions of local maxima that exceed the local median by a threshold, refined by parabolic interpolation."""

    def windows(reach: int, value: float) -> np.ndarray:
        return np.lib.stride_tricks.sliding_window_view(np.pad(curve, reach, constant_values=value), 2 * reach + 1)

    high = curve - np.nanmedian(windows(NEIGHBOURHOOD, np.nan), axis=1)
    at = np.flatnonzero((curve == windows(GAP, -np.inf).max(1)) & (high >= threshold))
    before, after = np.pad(curve, 1, mode="edge")[:-2][at], np.pad(curve, 1, mode="edge")[2:][at]
    bend = np.maximum(2 * curve[at] - before - after, 1e-9)
    return at + np.clip(0.5 * (after - before) / bend, -0.5, 0.5)


def choose(videos: Sequence[Video], curves: Sequence[np.ndarray], seed: int) -> tuple[float, float]:
    """Choose the threshold and offset whose F1 exceeds that of shifted times most, averaged over both tolerances."""

    def margin(threshold: float, offset: float) -> float:
        found = moments(videos, curves, threshold, offset)
        both = [[reduce(add, scores).f1 for scores in score(videos, found, tolerance, seed)] for tolerance in TOLERANCES]
        return sum(own - chance for own, chance in both)

    return max(((threshold, offset) for threshold in THRESHOLDS for offset in OFFSETS), key=lambda pair: margin(*pair))


def score(videos: Sequence[Video], found: Sequence[np.ndarray], tolerance: float, seed: int) -> list[list[OnsetScore]]:
    """Score the times of each clip, and the same times circularly shifted."""
    rng = np.random.default_rng(seed)
    chance = [timing.shifted([own], video.seconds, rng) for video, own in zip(videos, found, strict=True)]
    ways = [[own] for own in found], chance
    return [[_sum(video, times, tolerance) for video, times in zip(videos, way, strict=True)] for way in ways]


def score_others(videos: Sequence[Video], found: Sequence[np.ndarray], tolerance: float) -> list[OnsetScore]:
    """Score the times from clips of other scenes against each clip."""
    both = list(zip(videos, found, strict=True))
    others = [[times[times < video.seconds] for other, times in both if other.scene != video.scene] for video in videos]
    return [_sum(video, times, tolerance) for video, times in zip(videos, others, strict=True)]


def _sum(video: Video, ways: Sequence[np.ndarray], tolerance: float) -> OnsetScore:
    return sum((onset_f1(times, video.onsets, tolerance) for times in ways), OnsetScore(0, 0, 0))


def cell(scores: list[OnsetScore], seed: int) -> str:
    """Format F1 over all clips and its interval."""
    low, high = interval_of_mean(*interval_rows(scores), seed)
    return f"{reduce(add, scores).f1:.3f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()
