"""Timing: F1 of the onsets of generated sounds against those of the videos' own sounds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch

from unsilent.clip import Clip
from unsilent.data.manifest import Row
from unsilent.media.audio import read_audio
from unsilent.metrics import OnsetScore, onset_f1
from unsilent.metrics.onsets import interval_rows
from unsilent.metrics.resampling import interval_of_mean
from unsilent.signal.mel import log_mel01
from unsilent.signal.onsets import find_onsets, onset_strength

MIN_ONSETS = 3
ONSETS_PER_SECOND = (0.5, 5.0)  # sparser onsets measure little, and denser ones match by chance
MIN_RISE_DB = 10.0  # mean over bands and onsets: impacts rise by 10 to 40 dB, plucked strings and pouring water by 3 to 8 dB
SHIFTS = 20  # random shifts per sound for the chance level


@dataclass(frozen=True)
class Impacts:
    """A video with clear impacts.

    Attributes:
        row: row of the manifest.
        waveform: own sound of the video.
        seconds: onsets of the waveform in seconds.
    """

    row: Row
    waveform: np.ndarray
    seconds: np.ndarray


def find_impacts(rows: Sequence[Row], root: Path, clip: Clip) -> list[Impacts]:
    """Return the videos whose own sound has clear impacts, held-out ones first.

    The sound must have at least `MIN_ONSETS` onsets, a rate in `ONSETS_PER_SECOND`, and a mean rise at the onsets of at least
    `MIN_RISE_DB`.
    """
    found = []
    for row in sorted((row for row in rows if row.kind == "clip"), key=lambda row: (row.split == "train", row.clip_id)):
        start, length = (round(seconds * clip.sample_rate) for seconds in (row.start_seconds, row.duration_seconds))
        waveform = read_audio(root / row.path, clip.sample_rate)[start : start + length]
        if len(waveform) < clip.column_samples:
            continue
        mel01 = log_mel01(torch.from_numpy(waveform)[None], clip)[0]
        if is_clear(seconds := find_onsets(mel01, clip), mel01, clip):
            found.append(Impacts(row, waveform, seconds))
    return found


def is_clear(seconds: np.ndarray, mel01: torch.Tensor, clip: Clip) -> bool:
    """Return whether a sound with these onsets has clear impacts; see `find_impacts`."""
    length = mel01.shape[1] * clip.hop / clip.sample_rate
    if len(seconds) < MIN_ONSETS or not ONSETS_PER_SECOND[0] <= len(seconds) / length <= ONSETS_PER_SECOND[1]:
        return False
    rises = onset_strength(mel01, clip)[np.round(seconds * clip.sample_rate / clip.hop).astype(int)]
    return rises.mean().item() >= MIN_RISE_DB


def onsets_of(waveform: np.ndarray, clip: Clip) -> np.ndarray:
    """Return the onsets of a sound in seconds."""
    return find_onsets(log_mel01(torch.from_numpy(waveform)[None].float(), clip)[0], clip)


def score_all(
    videos: Sequence[Impacts],
    ways: Mapping[str, Path],
    reconstruct: Callable[[np.ndarray], np.ndarray],
    clip: Clip,
    seed: int,
) -> dict[str, Any]:
    """Compute F1 of each set of generated sounds, of the videos' own sounds after codebook and vocoder, and of chance.

    Args:
        videos: videos with clear impacts.
        ways: folders of samples from `unsilent sample`, by name; the first is compared with chance.
        reconstruct: function that passes a waveform through codebook and vocoder.
        clip: time and frequency grid.
        seed: random seed of shifts and intervals.

    Returns:
        For all videos, and for the held-out ones: F1 with its 95 % interval over videos, precision and recall of each way, of `own sound
        through the codebook`, of the first way's sounds circularly `shifted` at random, and of its sounds `for other videos`. Also the mean
        difference in F1 between the first way and its shifted sounds. For each video: its F1 values.
    """
    made = {
        way: [[onsets_of(read_audio(path, clip.sample_rate), clip) for path in sorted((folder / video.row.clip_id).glob("*.wav"))]
              for video in videos]
        for way, folder in ways.items()
    }  # fmt: skip
    first = next(iter(made.values()))
    scores = {"own sound through the codebook": [_score(video, [onsets_of(reconstruct(video.waveform), clip)]) for video in videos]}
    scores |= {way: [_score(*pair) for pair in zip(videos, sounds, strict=True)] for way, sounds in made.items()}
    rng = np.random.default_rng(seed)
    scores["shifted"] = [_score(video, shifted(sounds, _length(video), rng)) for video, sounds in zip(videos, first, strict=True)]
    scores["for other videos"] = [
        _score(video, [one for other, sounds in enumerate(first) if other != number for one in sounds])
        for number, video in enumerate(videos)
    ]
    held_out = [number for number, video in enumerate(videos) if video.row.split != "train"]
    over = next(iter(ways))
    return {
        "rule": {"onsets": MIN_ONSETS, "onsets_a_second": ONSETS_PER_SECOND, "rise_db": MIN_RISE_DB},
        "all": _table(scores, range(len(videos)), over, seed),
        "held out": _table(scores, held_out, over, seed),
        "videos": {
            video.row.clip_id: {"split": video.row.split, "label": video.row.label, "onsets": len(video.seconds)}
            | {way: round(rows[number].f1, 4) for way, rows in scores.items()}
            for number, video in enumerate(videos)
        },
    }


def shifted(sounds: Sequence[np.ndarray], length: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Cut onsets to a length in seconds, and shift them circularly by `SHIFTS` random amounts."""
    return [(sound[sound < length] + rng.uniform(0, length)) % length for sound in sounds for _ in range(SHIFTS)]


def _length(video: Impacts) -> float:
    return video.row.duration_seconds


def _score(video: Impacts, sounds: Sequence[np.ndarray]) -> OnsetScore:
    """Score all onsets during the video; generated sounds are as long as a clip and may be longer than the video."""
    length = _length(video)
    return reduce(add, (onset_f1(sound[sound < length], video.seconds) for sound in sounds), OnsetScore(0, 0, 0))


def _table(scores: Mapping[str, Sequence[OnsetScore]], videos: Sequence[int], over: str, seed: int) -> dict[str, Any]:
    if not videos:
        return {"videos": 0}
    rows = {}
    for way, of_videos in scores.items():
        kept = [of_videos[number] for number in videos]
        total = reduce(add, kept)
        interval = interval_of_mean(*interval_rows(kept), seed)
        rows[way] = {"f1": total.f1, "interval": interval, "precision": total.precision, "recall": total.recall}
    above = np.array([scores[over][number].f1 - scores["shifted"][number].f1 for number in videos])
    return {
        "videos": len(videos),
        "rows": rows,
        "above_chance": {"f1": float(above.mean()), "interval": interval_of_mean(above, np.ones(len(above), dtype=int), seed)},
    }
