"""Batches of crops of sounds for training; `pairs` has batches of codes with features and motion.

Every item has its own random generator (`generators`). So a batch does not depend on its distribution over processes, threads and parts,
and resuming needs no state of the data.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, Shaped
from torch import Tensor

from unsilent.clip import Clip
from unsilent.data.augmentation import Augmentation
from unsilent.data.shards import Shard, mel01_from_stored, sound_shard
from unsilent.errors import DataError, ParameterError
from unsilent.signal.loudness import LOUDNESS
from unsilent.signal.mel import RANGE_DB, log_mel01
from unsilent.signal.silence import without_silent_ends

_MIXED_DB = 12.0  # largest attenuation of an added sound


class Crops(NamedTuple):
    """A batch of crops.

    Attributes:
        sound: float32 waveforms in [-1, 1], or mels in [0, 1]; see `mel01_of`.
        names: clip id of each crop.
    """

    sound: Float[Tensor, "batch samples"] | Float[Tensor, "batch mels frames"]
    names: list[str]


class LabelledBatch(NamedTuple):
    """A batch of crops as in `Crops`, with class indices."""

    sound: Float[Tensor, "batch samples"] | Float[Tensor, "batch mels frames"]
    labels: Int64[Tensor, "batch"]
    names: list[str]


def mel01_of(sound: Float[Tensor, "batch samples"] | Float[Tensor, "batch mels frames"], clip: Clip) -> Float[Tensor, "batch mels frames"]:
    """Mels in [0, 1] of a batch, which may consist of mels already."""
    return sound if sound.ndim == 3 else log_mel01(sound, clip)


class WaveformCrops:
    """Random crops of waveforms. Sounds are drawn with weights proportional to the square root of their length.

    Args:
        shards: folder of the shard `waveforms`.
        split: split to use.
        samples: length of a crop in samples.
        min_sample_rate: in Hz; recordings with lower rates are left out, because they have no high frequencies.
        augmentation: random augmentation of crops.
        peak: range, from 0 to 1 (full scale), of the peak that each recording is scaled to, drawn uniformly; None does not scale.
        trims: also trim the silent ends of clips, which are stored untrimmed; only if sounds were normalised.

    Raises:
        DataError: if no sound is left.
    """

    kind = "waveforms"

    def __init__(
        self,
        shards: Path,
        split: str,
        samples: int,
        min_sample_rate: int = 0,
        augmentation: Augmentation = Augmentation(),
        peak: tuple[float, float] | None = None,
        trims: bool = False,
    ) -> None:
        self.shard = Shard(shards, self.kind)
        self.loudness_lufs: float | None = self.shard.extractor.get(LOUDNESS)
        self.trims = trims and self.loudness_lufs is not None
        self.samples = samples
        self.augmentation, self.peak = augmentation, peak
        rows = [entry.row for entry in self.shard.entries]
        self.items = [i for i, row in enumerate(rows) if row.split == split and row.sample_rate >= min_sample_rate]
        if not self.items:
            raise DataError(f"no {split!r} sound of at least {min_sample_rate} Hz in {shards}.")
        # square root, because long recordings have more content, but repeat themselves
        self.draw = WeightedChoice(np.sqrt([self.shard.entries[i].length for i in self.items]))
        self.same_label: dict[str, list[int]] = defaultdict(list)  # an unlabelled sound has its own group
        for i in self.items:
            self.same_label[self._label(i)].append(i)

    def _label(self, item: int) -> str:
        return self.shard.entries[item].row.label or self.name(item)

    def batch(self, rngs: Sequence[np.random.Generator]) -> Crops:
        """One crop for each generator."""
        chosen = [self.items[self.draw(rng)] for rng in rngs]
        sound = np.stack([self.crop(i, rng) for i, rng in zip(chosen, rngs, strict=True)])
        return Crops(torch.from_numpy(sound), [self.name(i) for i in chosen])

    def in_order(self, size: int) -> Iterator[Crops]:
        """The middle of every sound once in batches of `size`. A short sound is repeated; the last batch may be smaller."""
        for start in range(0, len(self.items), size):
            chosen = self.items[start : start + size]
            sound = np.stack([self.middle(i) for i in chosen])
            yield Crops(torch.from_numpy(sound), [self.name(i) for i in chosen])

    def name(self, item: int) -> str:
        """Clip id of an item of the shard."""
        return self.shard.entries[item].row.clip_id

    def _is_clip(self, item: int) -> bool:
        """Whether an item is the sound of a video. If short, it is repeated, as in the paper; a recording may be padded with silence."""
        return self.shard.entries[item].row.kind == "clip"

    def crop(self, item: int, rng: np.random.Generator) -> Float32[np.ndarray, "samples"]:
        """An augmented random crop of an item, in [-1, 1]."""
        gain_db, _, mix_share = self.augmentation
        crop = self._cut(item, rng)
        if mix_share and rng.random() < mix_share:
            others = self.same_label[self._label(item)]
            crop = crop + self._cut(others[rng.integers(len(others))], rng) * np.float32(10 ** (rng.uniform(-_MIXED_DB, 0) / 20))
        crop = crop * np.float32(10 ** (rng.uniform(*gain_db) / 20))
        return crop / max(np.float32(1), np.abs(crop).max())  # scaled down instead of clipped

    def _cut(self, item: int, rng: np.random.Generator) -> Float32[np.ndarray, "samples"]:
        """A random crop at a random speed."""
        waveform, (slowest, fastest) = self._stored(item), self.augmentation.speed
        scale = 1 / 32768 if self.peak is None else rng.uniform(*self.peak) / _peak(waveform)
        length = self.samples if slowest == fastest == 1 else _fft_length(round(self.samples * rng.uniform(slowest, fastest)))
        crop = _random_cut(waveform, length, rng, self._is_clip(item)).astype(np.float32) * np.float32(scale)
        return crop if length == self.samples else _resample(crop, self.samples)

    def middle(self, item: int) -> Float32[np.ndarray, "samples"]:
        """The middle of an item in [-1, 1], without augmentation; a short item is repeated."""
        return self._middle(item).astype(np.float32) / 32768

    def _stored(self, item: int) -> Shaped[np.ndarray, "length *row"]:
        sound = self.shard[item]
        if not self.trims or not self._is_clip(item):
            return sound
        # as floating point, because the magnitude of the lowest int16 overflows
        return without_silent_ends(sound.astype(np.float32), Clip(**self.shard.setting("clip")).column_samples)

    def _middle(self, item: int) -> Shaped[np.ndarray, "length *row"]:
        sound = self._stored(item)
        start = max(0, len(sound) - self.samples) // 2
        return _repeat(sound[start : start + self.samples], self.samples)


class MelCrops(WaveformCrops):
    """Random crops of mels, for data sets without waveforms. Gain shifts values above the floor.

    Args:
        shards: folder of the shard `mels`.
        split: split to use.
        samples: length of a crop, in samples of the waveform.
        augmentation: random augmentation of crops; only gain.

    Raises:
        DataError: if no sound is left.
        ParameterError: if `augmentation` changes the speed or mixes sounds.
    """

    kind = "mels"

    def __init__(self, shards: Path, split: str, samples: int, augmentation: Augmentation = Augmentation()) -> None:
        if augmentation != Augmentation(augmentation.gain_db):
            raise ParameterError(f"speed and mix_share need waveforms, but {shards} has only mels; leave them out.")
        super().__init__(shards, split, samples, augmentation=augmentation)
        self.samples = samples // Clip(**self.shard.setting("clip")).hop  # items of this shard have frames

    def crop(self, item: int, rng: np.random.Generator) -> Float32[np.ndarray, "mels frames"]:
        """An augmented random crop of an item, in [0, 1]."""
        mel01 = mel01_from_stored(_random_cut(self.shard[item], self.samples, rng, self._is_clip(item))).T
        return np.where(mel01 > 0, np.clip(mel01 + np.float32(rng.uniform(*self.augmentation.gain_db) / RANGE_DB), 0, 1), 0)

    def middle(self, item: int) -> Float32[np.ndarray, "mels frames"]:
        """The middle of an item in [0, 1], without augmentation; a short item is repeated."""
        return mel01_from_stored(self._middle(item)).T


def open_crops(shards: Path, split: str, samples: int, augmentation: Augmentation = Augmentation(), trims: bool = False) -> WaveformCrops:
    """Crops of a folder's waveforms, or if it has none, of its mels, which are never trimmed."""
    if sound_shard(shards) == "mels":
        return MelCrops(shards, split, samples, augmentation)
    return WaveformCrops(shards, split, samples, augmentation=augmentation, trims=trims)


class LabelledCrops:
    """Random crops of sounds with class indices. Rare labels are oversampled.

    Args:
        shards: folder of the shard `waveforms` or `mels`.
        split: split to use.
        samples: length of a crop, in samples of the waveform.
        classes: labels in the order of their indices; sounds of other labels are left out. None takes the sorted labels of the split.
        balance: the weight of a label is its number of sounds to this power: 0 draws all labels equally often, 1 as often as they occur.
        augmentation: random augmentation of crops.

    Raises:
        DataError: if the split has fewer than two labels, or no sound of `classes`.
    """

    def __init__(
        self,
        shards: Path,
        split: str,
        samples: int,
        classes: list[str] | None = None,
        balance: float = 0.5,
        augmentation: Augmentation = Augmentation(),
    ) -> None:
        self.crops = open_crops(
            shards, split, samples, augmentation, trims=True
        )  # trimming, because a classifier does not need the timing of the video
        labels = {i: self.crops.shard.entries[i].row.label for i in self.crops.items}
        self.classes = sorted(set(labels.values()) - {""}) if classes is None else classes
        if len(self.classes) < 2:
            raise DataError(f"the sounds of the split {split!r} in {shards} have {len(self.classes)} labels; a classifier needs 2 or more.")
        indices = {label: index for index, label in enumerate(self.classes)}
        self.items = [(i, indices[label]) for i, label in labels.items() if label in indices]
        if not self.items:
            raise DataError(f"no sound of the split {split!r} in {shards} has one of the {len(self.classes)} labels of the training.")
        counts = np.bincount([index for _, index in self.items])
        self.draw = WeightedChoice([counts[index] ** (balance - 1.0) for _, index in self.items])

    def __len__(self) -> int:
        """Number of sounds."""
        return len(self.items)

    def batch(self, rngs: Sequence[np.random.Generator]) -> LabelledBatch:
        """One random crop for each generator."""
        chosen = [self.items[self.draw(rng)] for rng in rngs]
        return self._batch(chosen, [self.crops.crop(i, rng) for (i, _), rng in zip(chosen, rngs, strict=True)])

    def in_order(self, size: int) -> Iterator[LabelledBatch]:
        """The middle of every sound once in batches of `size`. A short sound is repeated; the last batch may be smaller."""
        for start in range(0, len(self.items), size):
            chosen = self.items[start : start + size]
            yield self._batch(chosen, [self.crops.middle(i) for i, _ in chosen])

    def _batch(self, chosen: list[tuple[int, int]], crops: list[np.ndarray]) -> LabelledBatch:
        labels = torch.tensor([index for _, index in chosen])
        return LabelledBatch(torch.from_numpy(np.stack(crops)), labels, [self.crops.name(i) for i, _ in chosen])


def _peak(waveform: Shaped[np.ndarray, "samples"]) -> int:
    return max(int(waveform.max()), -int(waveform.min()), 1)  # 1 for silence


def _fft_length(length: int) -> int:
    """The next length without prime factors above 5, for which an FFT is up to ten times as fast."""
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 1


def at_speed(waveform: Float32[np.ndarray, "samples"], speed: float) -> Float32[np.ndarray, "resampled"]:
    """A sound played `speed` times as fast, with changed pitch; `round(samples / speed)` samples, timed to one sample."""
    padded = np.pad(waveform, (0, _fft_length(len(waveform)) - len(waveform)))
    return _resample(padded, round(len(padded) / speed))[: round(len(waveform) / speed)]


def _resample(waveform: Float32[np.ndarray, "samples"], n_samples: int) -> Float32[np.ndarray, "resampled"]:
    """Resample a sound to a number of samples; frequencies above the new Nyquist frequency are removed."""
    return np.fft.irfft(np.fft.rfft(waveform), n_samples).astype(np.float32) * np.float32(n_samples / len(waveform))


def _random_cut(
    sound: Shaped[np.ndarray, "time *row"], length: int, rng: np.random.Generator, repeat: bool
) -> Shaped[np.ndarray, "length *row"]:
    """A random stretch of the first axis.

    A shorter sound is repeated, or unless `repeat`, with probability 0.5 padded with silence on both sides.
    """
    if len(sound) < length:
        sound = _repeat(sound, length) if repeat or rng.random() < 0.5 else _pad(sound, length, rng)
    start = rng.integers(len(sound) - length + 1)
    return sound[start : start + length]


def _repeat(sound: Shaped[np.ndarray, "time *row"], length: int) -> Shaped[np.ndarray, "length *row"]:
    return np.resize(sound, (length, *sound.shape[1:]))


def _pad(sound: Shaped[np.ndarray, "time *row"], length: int, rng: np.random.Generator) -> Shaped[np.ndarray, "length *row"]:
    before = int(rng.integers(length - len(sound) + 1))
    return np.pad(sound, [(before, length - len(sound) - before)] + [(0, 0)] * (sound.ndim - 1))


class WeightedChoice:
    """Draws indices with given weights; each draw uses one random number.

    Args:
        weights: non-negative; their sum is arbitrary.
    """

    def __init__(self, weights: Sequence[float] | np.ndarray) -> None:
        self.cumulative = np.cumsum(np.asarray(weights, dtype=np.float64))

    def __call__(self, rng: np.random.Generator) -> int:
        """The next index."""
        return int(np.searchsorted(self.cumulative, rng.random() * self.cumulative[-1], side="right"))


def generators(seed: int, step: int, items: range) -> list[np.random.Generator]:
    """One generator for each item of a step's batch; items are numbered across processes and parts."""
    return [np.random.default_rng([seed, step, item]) for item in items]
