"""Batches for the trainers. A batch is a function of seed, rank and step alone, so that resuming needs no memory of the past."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unsilent.clip import Clip
from unsilent.data.shards import Shard
from unsilent.errors import DataError


class WaveformCrops:
    """Random crops of sounds, with random gain.

    Args:
        shards: folder with the shard `waveforms`.
        split: which rows to use.
        samples: length of a crop.
        min_sample_rate: leave out recordings made at a lower rate in Hz (they have no high frequencies to learn from).
        gain_db: lowest and highest gain.
        peak: bring each whole recording to a peak drawn evenly from this range first, full scale being 1; None leaves it as it is.

    Raises:
        DataError: if no sound is left.
    """

    def __init__(
        self,
        shards: Path,
        split: str,
        samples: int,
        min_sample_rate: int = 0,
        gain_db: tuple[float, float] = (0.0, 0.0),
        peak: tuple[float, float] | None = None,
    ) -> None:
        self.shard = Shard(shards, "waveforms")
        self.samples = samples
        self.gain_db, self.peak = gain_db, peak
        self.items = [
            i for i, e in enumerate(self.shard.entries) if e.about["split"] == split and e.about["sample_rate"] >= min_sample_rate
        ]
        if not self.items:
            raise DataError(f"no {split!r} sound of at least {min_sample_rate} Hz in {shards}.")
        # by the square root of duration: long recordings have more to say, but repeat themselves
        weights = np.sqrt([self.shard.entries[i].length for i in self.items])
        self.weights = weights / weights.sum()

    def batch(self, size: int, rng: np.random.Generator) -> Tensor:
        """`[size, samples]` float32 in [-1, 1]."""
        chosen = rng.choice(self.items, size, p=self.weights)
        return torch.from_numpy(np.stack([self.crop(int(i), rng) for i in chosen]))

    def crop(self, item: int, rng: np.random.Generator) -> np.ndarray:
        """`[samples]` float32 in [-1, 1] of one row of the shard."""
        waveform = self.shard[item]
        scale = 1 / 32768 if self.peak is None else rng.uniform(*self.peak) / _peak(waveform)
        if len(waveform) < self.samples:
            # a short sound is repeated or stands alone in silence: both happen in videos
            tiled = rng.random() < 0.5
            waveform = np.resize(waveform, self.samples) if tiled else _placed(waveform, self.samples, rng)
        start = rng.integers(len(waveform) - self.samples + 1)
        crop = waveform[start : start + self.samples].astype(np.float32) * np.float32(scale)
        return np.clip(crop * np.float32(10 ** (rng.uniform(*self.gain_db) / 20)), -1, 1)


class LabelledCrops:
    """Random crops of sounds with the numbers of their labels; labels with few sounds are shown more often than they come.

    Args:
        shards: folder with the shard `waveforms`.
        split: which rows to use.
        samples: length of a crop.
        classes: labels in the order of their numbers, rows of others are left out; without it those of the split, sorted.
        balance: power of a label's number of sounds that it is drawn by, from 0 (all labels alike) to 1 (as they come).
        gain_db: lowest and highest gain of random crops.

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
        gain_db: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        self.crops = WaveformCrops(shards, split, samples, gain_db=gain_db)
        self.samples = samples
        labels = {i: self.crops.shard.entries[i].about["label"] for i in self.crops.items}
        self.classes = sorted(set(labels.values()) - {""}) if classes is None else classes
        if len(self.classes) < 2:
            raise DataError(f"sounds of the split {split!r} in {shards} have {len(self.classes)} labels; telling apart takes two or more.")
        numbers = {label: number for number, label in enumerate(self.classes)}
        self.items = [(i, numbers[label]) for i, label in labels.items() if label in numbers]
        if not self.items:
            raise DataError(f"no sound of the split {split!r} in {shards} has one of the {len(self.classes)} labels of the training.")
        counts = np.bincount([number for _, number in self.items])
        weights = np.array([counts[number] ** (balance - 1.0) for _, number in self.items])
        self.weights = weights / weights.sum()

    def __len__(self) -> int:
        """Number of sounds."""
        return len(self.items)

    def batch(self, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Random crops `[size, samples]` float32 in [-1, 1] and the numbers of their labels `[size]`."""
        chosen = [self.items[i] for i in rng.choice(len(self.items), size, p=self.weights)]
        return torch.from_numpy(np.stack([self.crops.crop(i, rng) for i, _ in chosen])), torch.tensor([number for _, number in chosen])

    def in_order(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every sound once, its middle or, where it is short, repeated; batches as of `batch`, the last of which may be smaller."""
        for start in range(0, len(self.items), size):
            chosen = self.items[start : start + size]
            yield torch.from_numpy(np.stack([self._middle(i) for i, _ in chosen])), torch.tensor([number for _, number in chosen])

    def _middle(self, item: int) -> np.ndarray:
        waveform = self.crops.shard[item]
        start = max(0, len(waveform) - self.samples) // 2
        return np.resize(waveform[start : start + self.samples], self.samples).astype(np.float32) / 32768


def _peak(waveform: np.ndarray) -> int:
    return max(int(waveform.max()), -int(waveform.min()), 1)  # silence stays silent


def _placed(waveform: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    before = int(rng.integers(samples - len(waveform) + 1))
    return np.pad(waveform, (before, samples - len(waveform) - before))


class Pairs(NamedTuple):
    """A batch of sounds as codes, with what is seen and called while they sound.

    Attributes:
        codes: `[batch, sequence]` in the sampler's order.
        features: `[batch, features, dim]`, one or several for each code column, as the shard has them.
        labels: `[batch]`, places in `PairedCodes.labels`; -1 where nobody named the sound.
    """

    codes: Tensor
    features: Tensor
    labels: Tensor


class PairedCodes:
    """Code sequences with the visual features that go with them.

    Sounds and pictures of one label are paired at random; a clip made of two labels changes its pictures where its sound changes, which
    teaches that the pictures of a moment speak for that moment. Real clips keep their own pairing and timing.

    Args:
        shards: folder with the shards `codes` and `features`.
        split: which rows to use.
        clip: length of what is made.
        real_share: how often a real clip is taken instead of a composed one; at 1 nothing needs a label.
        cut_share: how often a composed clip changes its label midway; its label is then the first.
        named_only: leave out real clips without a label.

    Raises:
        DataError: if no label has both sounds and pictures, or, at a `real_share` of 1, no clip has both.
    """

    def __init__(
        self, shards: Path, split: str, clip: Clip, real_share: float = 0.15, cut_share: float = 0.3, named_only: bool = False
    ) -> None:
        self.codes, self.features = Shard(shards, "codes"), Shard(shards, "features")
        self.clip, self.real_share, self.cut_share = clip, real_share, cut_share
        self.rows_per_column = self.features.extractor.get("rows_per_column", 1)  # of features
        self.sounds, self.pictures, self.real = defaultdict(list), defaultdict(list), []
        features_of_clip = {}
        for i, entry in enumerate(self.features.entries):
            if entry.about["split"] == split:
                if entry.about["label"]:
                    self.pictures[entry.about["label"]].append(i)
                if entry.about["kind"] == "clip":
                    features_of_clip[entry.about["clip_id"]] = i
        for i, entry in enumerate(self.codes.entries):
            if entry.about["split"] == split:
                if entry.about["label"]:
                    self.sounds[entry.about["label"]].append(i)
                paired = features_of_clip.get(entry.about["clip_id"])
                if paired is not None and self.features.entries[paired].length > entry.about["start_column"] * self.rows_per_column:
                    self.real.append((i, paired))
        self.labels = sorted(set(self.sounds) & set(self.pictures))
        if real_share == 1 and not self.real:
            raise DataError(f"no clip of the split {split!r} in {shards} has both codes and features.")
        if real_share < 1 and not self.labels:
            raise DataError(f"no label of the split {split!r} in {shards} has both sounds and pictures.")
        if named_only:
            self.real = [pair for pair in self.real if self.codes.entries[pair[0]].about["label"] in self.labels]
        # a label with much material is shown more often, by the square root
        weights = np.sqrt([min(len(self.sounds[label]), 400) for label in self.labels])
        self.weights = weights / weights.sum()

    def batch(self, size: int, rng: np.random.Generator) -> Pairs:
        """`size` pairs, a function of the generator alone."""
        pairs = [self._real(rng) if self.real and rng.random() < self.real_share else self._composed(rng) for _ in range(size)]
        codes = np.stack([grid.reshape(-1) for grid, _, _ in pairs]).astype(np.int64)  # columns one after another, low to high
        features = np.stack([features for _, features, _ in pairs]).astype(np.float32)
        return Pairs(torch.from_numpy(codes), torch.from_numpy(features), torch.tensor([label for _, _, label in pairs]))

    def _composed(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        columns = self.clip.columns
        cut = int(rng.integers(columns // 5, columns - columns // 5)) if rng.random() < self.cut_share else columns
        scenes = [self._scene(length, rng) for length in (cut, columns - cut) if length]
        return np.concatenate([grid for grid, _, _ in scenes]), np.concatenate([features for _, features, _ in scenes]), scenes[0][2]

    def _scene(self, columns: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """Sounds of one label until the time is full, over views of one picture held for a while each."""
        number = int(rng.choice(len(self.labels), p=self.weights))
        label = self.labels[number]
        parts, filled = [], 0
        while filled < columns:
            part = self.codes[int(rng.choice(self.sounds[label]))]
            # a long sound may begin anywhere; a short one, often a single event, is kept whole
            start = int(rng.integers(0, max(1, len(part) - columns + 1)))
            parts.append(part[start : start + columns - filled])
            filled += len(parts[-1])
        picture = self.features[int(rng.choice(self.pictures[label]))]
        views = rng.integers(len(picture), size=columns)
        held = np.maximum.accumulate(np.where(rng.random(columns) < 0.2, np.arange(columns), 0))
        return np.concatenate(parts), picture[views[held]].repeat(self.rows_per_column, axis=0), number

    def _real(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, int]:
        """A real clip with its own pictures; one shorter than the window is repeated whole, as the published model was shown it."""
        code_item, feature_item = self.real[int(rng.integers(len(self.real)))]
        start, each = self.codes.entries[code_item].about["start_column"], self.rows_per_column
        grid, features = self.codes[code_item], self.features[feature_item][start * each :]
        length = min(len(grid), len(features) // each)
        columns = np.arange(self.clip.columns) % length
        rows = (columns[:, None] * each + np.arange(each)).ravel()
        label = self.codes.entries[code_item].about["label"]
        return grid[columns], features[rows], self.labels.index(label) if label in self.labels else -1
