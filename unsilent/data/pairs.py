"""Batches for training samplers: codes with features and motion of the video.

As in `datasets`, every item has its own random generator.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, Integer
from torch import Tensor

from unsilent.clip import Clip
from unsilent.data.datasets import WeightedChoice
from unsilent.data.rows import CodesRow
from unsilent.data.shards import Shard, dequantise, mel01_from_stored, sound_shard
from unsilent.errors import DataError
from unsilent.signal.mel import log_mel01
from unsilent.signal.onsets import onset_strength
from unsilent.vision.motion import CHANNELS, normalise, synthetic_motion

_NEW_VIEW = 0.2  # probability that the crop of an image changes at a column
_PAUSES = (1.0, 10.0)  # range of the mean length of pauses in columns, drawn log-uniformly


class SamplerBatch(NamedTuple):
    """A batch of code sequences with their conditions; conditions that the sampler does not have are None.

    Attributes:
        codes: codes in the sampler's order.
        features: features of images or videos; `PairedCodes` returns those of the shard, one or several per code column.
        labels: indices in `PairedCodes.labels`; -1 for unlabelled clips.
        seen: False if the features are zero, because the label has no image.
        motion: curves of `vision.motion.normalise`, `values` per code column.
        keep: False for sequences whose condition is dropped.
        names: clip id of each sequence's first sound.
    """

    codes: Int64[Tensor, "batch sequence"]
    features: Float[Tensor, "batch features dim"] | None
    labels: Int64[Tensor, "batch"] | None
    seen: Bool[Tensor, "batch"]
    motion: Float[Tensor, "batch columns values"] | None
    keep: Bool[Tensor, "batch"] | None
    names: list[str]


class PairedCodes:
    """Code sequences with visual features, and optionally motion.

    A composed sequence has random sounds of one label, and features of a random image of that label. A share of composed sequences has
    pauses before and between sounds, like single events in a video. With probability `cut_share`, sound and image change to another label
    at the same column, so that the sampler learns which features belong to which column. Motion of images is synthesised from the onsets of
    the sound. A real clip has its own features, timing and motion.

    Args:
        shards: folder of the shards `codes` and `features`.
        split: split to use.
        clip: length of a sequence.
        real_share: probability of a real clip instead of a composed sequence; at 1, no labels are needed.
        cut_share: probability that a composed sequence changes its label; the sequence is then labelled with the first.
        named_only: leave out real clips without a label.
        labels: labels in the order of their indices; None takes the sorted labels of the split that have both sounds and images.
        motion: include motion; needs the shard `motion`, and for composed sequences `waveforms` or `mels`.
        features: include features; without them, every sound is a real clip.
        silence: codes of a silent column, for pauses.
        pause_share: share of composed sequences with pauses; needs `silence`.
        blind: also draw labels without images; their features are zero and `seen` is False.

    Raises:
        DataError: if no label has both sounds and images or, at a `real_share` of 1, no clip has both.
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
        features: bool = True,
        silence: Integer[np.ndarray, "rows"] | None = None,
        pause_share: float = 0.0,
        blind: bool = False,
    ) -> None:
        self.codes, self.features = Shard(shards, "codes"), Shard(shards, "features") if features else None
        self.code_rows: list[CodesRow] = [entry.row for entry in self.codes.entries]
        self.motion = Shard(shards, "motion") if motion else None
        self.motion_of_clip = {entry.row.clip_id: i for i, entry in enumerate(self.motion.entries)} if motion else {}
        self.sound_items = Shard(shards, sound_shard(shards)) if motion and real_share < 1 else None
        self.strengths: dict[int, Float32[np.ndarray, "frames"]] = {}  # cached onset strength of sounds
        self.clip, self.real_share, self.cut_share = clip, real_share, cut_share
        self.rows_per_column: int = self.features.setting("rows_per_column") if features else 1
        self.sounds, self.images, self.real = defaultdict(list), defaultdict(list), []
        self._group(split)
        self.silence, self.pause_share = silence, pause_share
        complete = set(self.sounds) if blind or not features else set(self.sounds) & set(self.images)
        self.labels = sorted(complete) if labels is None else labels
        self.present = [index for index, label in enumerate(self.labels) if label in complete]
        if real_share == 1 and not self.real:
            raise DataError(f"no clip of the split {split!r} in {shards} has both codes and features.")
        if real_share < 1 and not self.present:
            raise DataError(f"no label of the split {split!r} in {shards} has {'sounds' if blind else 'both sounds and images'}.")
        if named_only:
            self.real = [pair for pair in self.real if self.code_rows[pair[0]].label in self.labels]
        # square root, so that labels with more material are drawn more often, but less than in proportion
        counts = [len({self.code_rows[i].clip_id for i in self.sounds[self.labels[index]]}) for index in self.present]
        self.draw = WeightedChoice(np.sqrt(counts)) if counts else None

    def _group(self, split: str) -> None:
        """Group items of the split into `sounds` and `images` by label, and `real` pairs of codes and features."""
        features_of_clip = {}
        for i, entry in enumerate(self.features.entries if self.features else ()):
            if entry.row.split == split:
                if entry.row.label:
                    self.images[entry.row.label].append(i)
                if entry.row.kind == "clip":
                    features_of_clip[entry.row.clip_id] = i
        for i, row in enumerate(self.code_rows):
            if row.split == split:
                if row.label:
                    self.sounds[row.label].append(i)
                paired = features_of_clip.get(row.clip_id)
                if self.motion is not None and row.clip_id not in self.motion_of_clip:
                    continue
                if self.features is None:
                    self.real.append((i, None))
                elif paired is not None and self.features.entries[paired].length > row.start_column * self.rows_per_column:
                    self.real.append((i, paired))

    def batch(self, rngs: Sequence[np.random.Generator]) -> SamplerBatch:
        """One sequence for each generator; `keep` is None, and so is `motion` if not included."""
        scenes = []
        for rng in rngs:
            is_real = self.real and rng.random() < self.real_share
            scenes.append(self._real(*self.real[int(rng.integers(len(self.real)))]) if is_real else self._composed(rng))
        return self._batch(scenes)

    def in_order(self, size: int) -> Iterator[SamplerBatch]:
        """Every real clip once, in batches of `size`; the last may be smaller."""
        pairs = [pair for pair in self.real if not self.code_rows[pair[0]].variant]
        for start in range(0, len(pairs), size):
            yield self._batch([self._real(*pair) for pair in pairs[start : start + size]])

    def _batch(self, scenes: list["_Scene"]) -> SamplerBatch:
        codes = np.stack([scene.grid.reshape(-1) for scene in scenes]).astype(np.int64)  # column by column, low rows first
        features = torch.from_numpy(np.stack([scene.features for scene in scenes]).astype(np.float32)) if self.features else None
        labels, motion = torch.tensor([scene.label for scene in scenes]), None
        if self.motion is not None:
            curves = np.stack([normalise(scene.levels).reshape(self.clip.columns, -1) for scene in scenes])
            motion = torch.from_numpy(curves.astype(np.float32))
        seen, names = torch.tensor([bool(scene.features.any()) for scene in scenes]), [scene.name for scene in scenes]
        return SamplerBatch(torch.from_numpy(codes), features, labels, seen, motion, None, names)

    def _composed(self, rng: np.random.Generator) -> "_Scene":
        columns = self.clip.columns
        cut = int(rng.integers(columns // 5, columns - columns // 5)) if rng.random() < self.cut_share else columns
        scenes = [self._scene(length, rng) for length in (cut, columns - cut) if length]
        grid, features, levels = (np.concatenate([scene[part] for scene in scenes]) for part in range(3))
        return scenes[0]._replace(grid=grid, features=features, levels=levels)

    def _scene(self, columns: int, rng: np.random.Generator) -> "_Scene":
        """Consecutive sounds of one label, with features of one image, whose crop changes at random columns."""
        index = self.present[self.draw(rng)]
        sounds, images = self.sounds[self.labels[index]], self.images.get(self.labels[index], [])
        parts, names, strengths, filled = [], [], [], 0
        pause = float(np.exp(rng.uniform(*np.log(_PAUSES)))) if self.pause_share and rng.random() < self.pause_share else 0.0
        while filled < columns:
            if pause:
                length = min(columns - filled, int(rng.exponential(pause)))
                parts.append(np.broadcast_to(self.silence, (length, len(self.silence))))
                strengths.append(np.zeros(length * self.clip.column_features, np.float32))
                filled += length
                if filled == columns:
                    break
            item = sounds[int(rng.integers(len(sounds)))]
            part = self.codes[item]
            # a long sound starts at a random column; a short sound is used whole, because it is often a single event
            start = int(rng.integers(0, max(1, len(part) - columns + 1)))
            parts.append(part[start : start + columns - filled])
            names.append(self.code_rows[item].clip_id)
            if self.motion is not None:
                strengths.append(self.onset_strength(item, start, len(parts[-1])))
            filled += len(parts[-1])
        dim = self.features.array.shape[1]
        image = self._features(images[int(rng.integers(len(images)))]) if images else np.zeros((1, dim), np.float32)
        views = rng.integers(len(image), size=columns)
        last_change = np.maximum.accumulate(np.where(rng.random(columns) < _NEW_VIEW, np.arange(columns), 0))
        features = image[views[last_change]].repeat(self.rows_per_column, axis=0)
        levels = np.empty((0, CHANNELS)) if self.motion is None else synthetic_motion(np.concatenate(strengths), rng)
        return _Scene(np.concatenate(parts), features, levels, index, names[0] if names else "")

    def onset_strength(self, item: int, start: int, columns: int) -> Float32[np.ndarray, "moments"]:
        """Strongest onset within the time of each feature.

        Args:
            item: index of an item of the shard `codes`.
            start: first column.
            columns: number of columns, each with the clip's `column_features` moments.

        Returns:
            Onset strength in dB; 0 after the end of the sound.
        """
        row, clip = self.code_rows[item], self.clip
        if row.item not in self.strengths:
            stored = torch.from_numpy(np.array(self.sound_items[row.item]))
            is_mel = stored.ndim == 2
            mel01 = torch.from_numpy(mel01_from_stored(stored.numpy())).T if is_mel else log_mel01(stored[None] / 32768, clip)[0]
            lead = clip.n_fft // clip.hop  # frames of silence, so that an event at the start is detected
            self.strengths[row.item] = onset_strength(torch.nn.functional.pad(mel01, (lead, 0)), clip).numpy()[lead:]
        first = row.shift_samples / clip.hop + (row.start_column + start) * clip.downsampling  # in frames at the changed speed
        moments = first + np.arange(columns * clip.column_features + 1) * clip.downsampling / clip.column_features
        frames = np.floor(moments * row.speed).astype(int)
        before = max(0, -frames[0])  # silence that was put before the sound while encoding
        strength = np.pad(self.strengths[row.item], (before, max(0, frames[-1] + 1 - len(self.strengths[row.item]))))
        return np.maximum.reduceat(strength, frames + before)[:-1]

    def _real(self, code_item: int, feature_item: int | None) -> "_Scene":
        """A real clip with its own features; a clip shorter than the sequence is repeated, as in the released training."""
        row, each, grid = self.code_rows[code_item], self.rows_per_column, self.codes[code_item]
        features = np.empty((len(grid), 0)) if feature_item is None else self._features(feature_item)[row.start_column * each :]
        length = min(len(grid), len(features) // each)
        columns = np.arange(self.clip.columns) % length
        feature_rows = (columns[:, None] * each + np.arange(each)).ravel()
        levels = np.empty((0, CHANNELS))
        if self.motion is not None:
            stored = self.motion[self.motion_of_clip[row.clip_id]][row.start_column :]
            levels = stored[columns].astype(np.float32).reshape(-1, CHANNELS)
        label = self.labels.index(row.label) if row.label in self.labels else -1
        return _Scene(grid[columns], features[feature_rows], levels, label, row.clip_id)

    def _features(self, item: int) -> Float32[np.ndarray, "features dim"]:
        return dequantise(self.features[item], self.features.entries[item].row)


class _Scene(NamedTuple):
    """A stretch of a sequence: codes, features, motion levels (empty without motion), label index, clip id of the first sound."""

    grid: Integer[np.ndarray, "columns rows"]
    features: Float[np.ndarray, "features dim"]
    levels: Float[np.ndarray, "moments channels"]
    label: int
    name: str
