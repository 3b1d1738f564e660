"""Batches of sounds for the trainers; those of codes with what is seen are in `pairs`.

Every item is drawn by a generator of its own, so a batch is the same however it is spread over processes, workers and parts, and resuming
needs no memory of the past.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unsilent.clip import Clip
from unsilent.data.shards import Shard, as_mel01, sounds_in
from unsilent.errors import DataError, ParameterError
from unsilent.signal.mel import RANGE_DB, log_mel01

_SOFTER_DB = 12.0  # at most, of a sound that is heard along


class Crops(NamedTuple):
    """A batch of pieces of sounds.

    Attributes:
        sound: float32 waveforms `[batch, samples]` in [-1, 1], or mels `[batch, mels, frames]` in [0, 1]; see `mel01_of`.
        names: the clips they are from.
    """

    sound: Tensor
    names: list[str]


class LabelledBatch(NamedTuple):
    """A batch of pieces of sounds as of `Crops`, with the numbers of their `labels`, `[batch]`."""

    sound: Tensor
    labels: Tensor
    names: list[str]


class Augmentation(NamedTuple):
    """How crops vary beyond where they are cut.

    Attributes:
        gain_db: lowest and highest gain.
        speed: lowest and highest factor that a sound is played faster by, pitch and all.
        mix_share: how often a crop of another sound of the same label is heard along, as loud or up to 12 dB softer.
    """

    gain_db: tuple[float, float] = (0.0, 0.0)
    speed: tuple[float, float] = (1.0, 1.0)
    mix_share: float = 0.0


def mel01_of(sound: Tensor, clip: Clip) -> Tensor:
    """Mels `[batch, mels, frames]` in [0, 1] of the sound of a batch, which may be mels already."""
    return sound if sound.ndim == 3 else log_mel01(sound, clip)


class WaveformCrops:
    """Random crops of sounds.

    Args:
        shards: folder with the shard `waveforms`.
        split: which rows to use.
        samples: length of a crop.
        min_sample_rate: leave out recordings made at a lower rate in Hz (they have no high frequencies to learn from).
        augmentation: how crops vary.
        peak: bring each whole recording to a peak drawn evenly from this range first, full scale being 1; None leaves it as it is.

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
    ) -> None:
        self.shard = Shard(shards, self.kind)
        self.samples = samples
        self.augmentation, self.peak = augmentation, peak
        self.items = [
            i for i, e in enumerate(self.shard.entries) if e.about["split"] == split and e.about["sample_rate"] >= min_sample_rate
        ]
        if not self.items:
            raise DataError(f"no {split!r} sound of at least {min_sample_rate} Hz in {shards}.")
        # by the square root of duration: long recordings have more to say, but repeat themselves
        self.draw = Chance(np.sqrt([self.shard.entries[i].length for i in self.items]))
        self.alike: dict[str, list[int]] = defaultdict(list)  # sounds by label; one that nobody named is like none
        for i in self.items:
            self.alike[self._label(i)].append(i)

    def _label(self, item: int) -> str:
        return self.shard.entries[item].about["label"] or self.name(item)

    def batch(self, rngs: Sequence[np.random.Generator]) -> Crops:
        """One crop by each generator."""
        chosen = [self.items[self.draw(rng)] for rng in rngs]
        sound = np.stack([self.crop(i, rng) for i, rng in zip(chosen, rngs, strict=True)])
        return Crops(torch.from_numpy(sound), [self.name(i) for i in chosen])

    def name(self, item: int) -> str:
        """The clip behind a row of the shard."""
        return self.shard.entries[item].about["clip_id"]

    def crop(self, item: int, rng: np.random.Generator) -> np.ndarray:
        """`[samples]` float32 in [-1, 1] of one row of the shard, augmented."""
        gain_db, _, mix_share = self.augmentation
        crop = self._piece(item, rng)
        if mix_share and rng.random() < mix_share:
            alike = self.alike[self._label(item)]
            crop = crop + self._piece(alike[rng.integers(len(alike))], rng) * np.float32(10 ** (rng.uniform(-_SOFTER_DB, 0) / 20))
        crop = crop * np.float32(10 ** (rng.uniform(*gain_db) / 20))
        return crop / max(np.float32(1), np.abs(crop).max())  # turned down rather than cut off

    def _piece(self, item: int, rng: np.random.Generator) -> np.ndarray:
        """A random piece of one sound at a random speed."""
        waveform, (slowest, fastest) = self.shard[item], self.augmentation.speed
        scale = 1 / 32768 if self.peak is None else rng.uniform(*self.peak) / _peak(waveform)
        length = self.samples if slowest == fastest == 1 else _fast(round(self.samples * rng.uniform(slowest, fastest)))
        piece = _cut(waveform, length, rng).astype(np.float32) * np.float32(scale)
        return piece if length == self.samples else _resampled(piece, self.samples)

    def middle(self, item: int) -> np.ndarray:
        """As `crop`, but the middle of the row, repeated if it is short, as it is stored."""
        return self._middle(item).astype(np.float32) / 32768

    def _middle(self, item: int) -> np.ndarray:
        sound = self.shard[item]
        start = max(0, len(sound) - self.samples) // 2
        return _repeated(sound[start : start + self.samples], self.samples)


class MelCrops(WaveformCrops):
    """Random crops of stored mels, for data sets that come without waveforms; gain moves what is above the floor up or down.

    Args:
        shards: folder with the shard `mels`.
        split: which rows to use.
        samples: length of a crop, as of the waveform behind it.
        augmentation: how crops vary; of mels the gain alone can.

    Raises:
        DataError: if no sound is left.
        ParameterError: if mels were to vary in speed, or to be mixed.
    """

    kind = "mels"

    def __init__(self, shards: Path, split: str, samples: int, augmentation: Augmentation = Augmentation()) -> None:
        if augmentation != Augmentation(augmentation.gain_db):
            raise ParameterError(f"speed and mix_share want waveforms, {shards} has mels only; leave them out.")
        super().__init__(shards, split, samples, augmentation=augmentation)
        self.samples = samples // Clip(**self.shard.extractor["clip"]).hop  # from here on of mels, which are frames

    def crop(self, item: int, rng: np.random.Generator) -> np.ndarray:
        """`[mels, frames]` float32 in [0, 1] of one row of the shard."""
        mel01 = as_mel01(_cut(self.shard[item], self.samples, rng)).T
        return np.where(mel01 > 0, np.clip(mel01 + np.float32(rng.uniform(*self.augmentation.gain_db) / RANGE_DB), 0, 1), 0)

    def middle(self, item: int) -> np.ndarray:
        """As `crop`, but the middle of the row, repeated if it is short, as it is stored."""
        return as_mel01(self._middle(item)).T


def open_crops(shards: Path, split: str, samples: int, augmentation: Augmentation = Augmentation()) -> WaveformCrops:
    """Crops of the waveforms of a folder of shards, or of its mels if there are no waveforms."""
    kind = MelCrops if sounds_in(shards) == "mels" else WaveformCrops
    return kind(shards, split, samples, augmentation=augmentation)


class LabelledCrops:
    """Random crops of sounds with the numbers of their labels; labels with few sounds are shown more often than they come.

    Args:
        shards: folder with the shard `waveforms`, or `mels` in its place.
        split: which rows to use.
        samples: length of a crop.
        classes: labels in the order of their numbers, rows of others are left out; without it those of the split, sorted.
        balance: power of a label's number of sounds that it is drawn by, from 0 (all labels alike) to 1 (as they come).
        augmentation: how random crops vary.

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
        self.crops = open_crops(shards, split, samples, augmentation)
        labels = {i: self.crops.shard.entries[i].about["label"] for i in self.crops.items}
        self.classes = sorted(set(labels.values()) - {""}) if classes is None else classes
        if len(self.classes) < 2:
            raise DataError(f"sounds of the split {split!r} in {shards} have {len(self.classes)} labels; telling apart takes two or more.")
        numbers = {label: number for number, label in enumerate(self.classes)}
        self.items = [(i, numbers[label]) for i, label in labels.items() if label in numbers]
        if not self.items:
            raise DataError(f"no sound of the split {split!r} in {shards} has one of the {len(self.classes)} labels of the training.")
        counts = np.bincount([number for _, number in self.items])
        self.draw = Chance([counts[number] ** (balance - 1.0) for _, number in self.items])

    def __len__(self) -> int:
        """Number of sounds."""
        return len(self.items)

    def batch(self, rngs: Sequence[np.random.Generator]) -> LabelledBatch:
        """One random crop by each generator."""
        chosen = [self.items[self.draw(rng)] for rng in rngs]
        return self._batch(chosen, [self.crops.crop(i, rng) for (i, _), rng in zip(chosen, rngs, strict=True)])

    def in_order(self, size: int) -> Iterator[LabelledBatch]:
        """Every sound once, its middle or, where it is short, repeated; in batches of `size`, the last of which may be smaller."""
        for start in range(0, len(self.items), size):
            chosen = self.items[start : start + size]
            yield self._batch(chosen, [self.crops.middle(i) for i, _ in chosen])

    def _batch(self, chosen: list[tuple[int, int]], crops: list[np.ndarray]) -> LabelledBatch:
        numbers = torch.tensor([number for _, number in chosen])
        return LabelledBatch(torch.from_numpy(np.stack(crops)), numbers, [self.crops.name(i) for i, _ in chosen])


def _peak(waveform: np.ndarray) -> int:
    return max(int(waveform.max()), -int(waveform.min()), 1)  # silence stays silent


def _fast(length: int) -> int:
    """The next length without prime factors above 5, whose Fourier transform takes a tenth of the time that others may."""
    while True:
        left = length
        for prime in (2, 3, 5):
            while left % prime == 0:
                left //= prime
        if left == 1:
            return length
        length += 1


def at_speed(waveform: np.ndarray, speed: float) -> np.ndarray:
    """The same sound, float32, played so many times as fast, pitch and all; to a sample, as what happens in it is looked up by time."""
    padded = np.pad(waveform, (0, _fast(len(waveform)) - len(waveform)))
    return _resampled(padded, round(len(padded) / speed))[: round(len(waveform) / speed)]


def _resampled(waveform: np.ndarray, samples: int) -> np.ndarray:
    """The same sound in another number of samples; what the new rate cannot hold is cut off."""
    return np.fft.irfft(np.fft.rfft(waveform), samples).astype(np.float32) * np.float32(samples / len(waveform))


def _cut(sound: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    """A random piece of the first axis."""
    if len(sound) < length:
        # a short sound is repeated or stands alone in silence: both happen in videos
        tiled = rng.random() < 0.5
        sound = _repeated(sound, length) if tiled else _placed(sound, length, rng)
    start = rng.integers(len(sound) - length + 1)
    return sound[start : start + length]


def _repeated(sound: np.ndarray, length: int) -> np.ndarray:
    return np.resize(sound, (length, *sound.shape[1:]))


def _placed(sound: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    before = int(rng.integers(length - len(sound) + 1))
    return np.pad(sound, [(before, length - len(sound) - before)] + [(0, 0)] * (sound.ndim - 1))


class Chance:
    """Draws numbers from 0 on by weights, with one random number each.

    Args:
        weights: not negative; they need not add up to 1.
    """

    def __init__(self, weights: Sequence[float] | np.ndarray) -> None:
        self.upto = np.cumsum(np.asarray(weights, dtype=np.float64))

    def __call__(self, rng: np.random.Generator) -> int:
        """The next number."""
        return int(np.searchsorted(self.upto, rng.random() * self.upto[-1], side="right"))


def generators(seed: int, step: int, items: range) -> list[np.random.Generator]:
    """The generators of some items of a step's batch, which know nothing of processes and parts."""
    return [np.random.default_rng([seed, step, item]) for item in items]
