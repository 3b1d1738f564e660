"""Batches for the sampler's training: codes with the pictures and the motion that go with them.

As in `datasets`, every item is drawn by a generator of its own.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unsilent.clip import Clip
from unsilent.data.datasets import Chance
from unsilent.data.shards import Shard, as_mel01, fine, sounds_in
from unsilent.errors import DataError
from unsilent.signal.mel import log_mel01
from unsilent.signal.onsets import onset_strength
from unsilent.vision.motion import CHANNELS, normalise, synthetic_motion


class Pairs(NamedTuple):
    """A batch of sounds as codes, with what is seen and called while they sound.

    Attributes:
        codes: `[batch, sequence]` in the sampler's order.
        features: `[batch, features, dim]`, one or several for each code column, as the shard has them.
        motion: `[batch, columns, numbers]`, curves of `motion.normalise`; None where it was not asked for.
        labels: `[batch]`, places in `PairedCodes.labels`; -1 where nobody named the sound.
        names: the clips that the sounds are from, the first of each sequence.
    """

    codes: Tensor
    features: Tensor
    motion: Tensor | None
    labels: Tensor
    names: list[str]


class PairedCodes:
    """Code sequences with the visual features, and the motion, that go with them.

    Sounds and pictures of one label are paired at random; a clip made of two labels changes its pictures where its sound changes, which
    teaches that the pictures of a moment speak for that moment. Still pictures are given the motion that their sounds might have had, which
    teaches that what is seen to happen is heard. Real clips keep their own pairing, timing and motion.

    Args:
        shards: folder with the shards `codes` and `features`.
        split: which rows to use.
        clip: length of what is made.
        real_share: how often a real clip is taken instead of a composed one; at 1 nothing needs a label.
        cut_share: how often a composed clip changes its label midway; its label is then the first.
        named_only: leave out real clips without a label.
        labels: in the order of their numbers; without it those of the split, sorted.
        motion: give motion too, of the shard `motion`, and for composed clips of `waveforms`, or `mels` in its place.

    Raises:
        DataError: if no label has both sounds and pictures, or, at a `real_share` of 1, no clip has both.
    """

    def __init__(
        self,
        shards: Path,
        split: str,
        clip: Clip,
        real_share: float = 0.15,
        cut_share: float = 0.3,
        named_only: bool = False,
        labels: list[str] | None = None,
        motion: bool = False,
    ) -> None:
        self.codes, self.features = Shard(shards, "codes"), Shard(shards, "features")
        self.motion = Shard(shards, "motion") if motion else None
        self.levels_of_clip = {entry.about["clip_id"]: i for i, entry in enumerate(self.motion.entries)} if motion else {}
        self.heard = Shard(shards, sounds_in(shards)) if motion and real_share < 1 else None
        self.strengths: dict[int, np.ndarray] = {}  # of onsets, of the sounds that were asked for
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
                if motion and entry.about["clip_id"] not in self.levels_of_clip:
                    continue
                if paired is not None and self.features.entries[paired].length > entry.about["start_column"] * self.rows_per_column:
                    self.real.append((i, paired))
        whole = set(self.sounds) & set(self.pictures)
        self.labels = sorted(whole) if labels is None else labels
        self.present = [number for number, label in enumerate(self.labels) if label in whole]
        if real_share == 1 and not self.real:
            raise DataError(f"no clip of the split {split!r} in {shards} has both codes and features.")
        if real_share < 1 and not self.present:
            raise DataError(f"no label of the split {split!r} in {shards} has both sounds and pictures.")
        if named_only:
            self.real = [pair for pair in self.real if self.codes.entries[pair[0]].about["label"] in self.labels]
        # a label with much material is shown more often, by the square root
        entries = self.codes.entries
        counts = [len({entries[i].about["clip_id"] for i in self.sounds[self.labels[number]]}) for number in self.present]
        self.draw = Chance(np.sqrt(counts)) if counts else None

    def batch(self, rngs: Sequence[np.random.Generator]) -> Pairs:
        """One pair by each generator."""
        pairs = [self._real(rng) if self.real and rng.random() < self.real_share else self._composed(rng) for rng in rngs]
        codes = np.stack([pair.grid.reshape(-1) for pair in pairs]).astype(np.int64)  # columns one after another, low to high
        features = np.stack([pair.features for pair in pairs]).astype(np.float32)
        labels, motion = torch.tensor([pair.label for pair in pairs]), None
        if self.motion is not None:
            curves = np.stack([normalise(pair.levels).reshape(self.clip.columns, -1) for pair in pairs])
            motion = torch.from_numpy(curves.astype(np.float32))
        return Pairs(torch.from_numpy(codes), torch.from_numpy(features), motion, labels, [pair.name for pair in pairs])

    def _composed(self, rng: np.random.Generator) -> "_Scene":
        columns = self.clip.columns
        cut = int(rng.integers(columns // 5, columns - columns // 5)) if rng.random() < self.cut_share else columns
        scenes = [self._scene(length, rng) for length in (cut, columns - cut) if length]
        grid, features, levels = (np.concatenate([scene[part] for scene in scenes]) for part in range(3))
        return scenes[0]._replace(grid=grid, features=features, levels=levels)

    def _scene(self, columns: int, rng: np.random.Generator) -> "_Scene":
        """Sounds of one label until the time is full, over views of one picture held for a while each."""
        number = self.present[self.draw(rng)]
        sounds, pictures = self.sounds[self.labels[number]], self.pictures[self.labels[number]]
        parts, names, strengths, filled = [], [], [], 0
        while filled < columns:
            sound = sounds[int(rng.integers(len(sounds)))]
            part = self.codes[sound]
            # a long sound may begin anywhere; a short one, often a single event, is kept whole
            start = int(rng.integers(0, max(1, len(part) - columns + 1)))
            parts.append(part[start : start + columns - filled])
            names.append(self.codes.entries[sound].about["clip_id"])
            if self.motion is not None:
                strengths.append(self._strength(sound, start, len(parts[-1])))
            filled += len(parts[-1])
        picture = self._seen(pictures[int(rng.integers(len(pictures)))])
        views = rng.integers(len(picture), size=columns)
        held = np.maximum.accumulate(np.where(rng.random(columns) < 0.2, np.arange(columns), 0))
        features = picture[views[held]].repeat(self.rows_per_column, axis=0)
        levels = np.empty((0, CHANNELS)) if self.motion is None else synthetic_motion(np.concatenate(strengths), rng)
        return _Scene(np.concatenate(parts), features, levels, number, names[0])

    def _strength(self, item: int, start: int, columns: int) -> np.ndarray:
        """The strongest onset, in dB, within each feature's time of some columns of a codes item."""
        about, clip = self.codes.entries[item].about, self.clip
        sound = about["item"]
        if sound not in self.strengths:
            stored = torch.from_numpy(np.array(self.heard[sound]))
            mel01 = torch.from_numpy(as_mel01(stored.numpy())).T if stored.ndim == 2 else log_mel01(stored[None] / 32768, clip)[0]
            self.strengths[sound] = onset_strength(mel01, clip).numpy()
        speed = about.get("speed", 1.0)  # which codes of before do not say
        first = about["shift_samples"] / clip.hop + (about["start_column"] + start) * clip.downsampling
        moments = first + np.arange(columns * clip.column_features + 1) * clip.downsampling / clip.column_features
        frames = np.floor(moments * speed).astype(int)
        strength = np.pad(self.strengths[sound], (0, max(0, frames[-1] + 1 - len(self.strengths[sound]))))
        return np.maximum.reduceat(strength, frames)[:-1]

    def _real(self, rng: np.random.Generator) -> "_Scene":
        """A real clip with its own pictures; one shorter than the window is repeated whole, as the published model was shown it."""
        code_item, feature_item = self.real[int(rng.integers(len(self.real)))]
        about, each = self.codes.entries[code_item].about, self.rows_per_column
        grid, features = self.codes[code_item], self._seen(feature_item)[about["start_column"] * each :]
        length = min(len(grid), len(features) // each)
        columns = np.arange(self.clip.columns) % length
        rows = (columns[:, None] * each + np.arange(each)).ravel()
        levels = np.empty((0, CHANNELS))
        if self.motion is not None:
            stored = self.motion[self.levels_of_clip[about["clip_id"]]][about["start_column"] :]
            levels = stored[columns].astype(np.float32).reshape(-1, CHANNELS)
        label = self.labels.index(about["label"]) if about["label"] in self.labels else -1
        return _Scene(grid[columns], features[rows], levels, label, about["clip_id"])

    def _seen(self, item: int) -> np.ndarray:
        return fine(self.features[item], self.features.entries[item].about)


class _Scene(NamedTuple):
    """Code columns, features, levels of motion, and the number of the label of a stretch of time, with the clip that its sound is from."""

    grid: np.ndarray
    features: np.ndarray
    levels: np.ndarray
    label: int
    name: str
