"""From material to the pieces of shards: loudness-normalised waveforms or their mels, visual features, motion, and codes.

An extractor says which shard it makes and by what recipe; called, it gives the work on one item. `jobs.extract` does that work, here or
spread over processes and machines, and writes the shard.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import nn

from unsilent.checkpoints import bundle
from unsilent.checkpoints.store import load_checkpoint, read_config, weights_digest
from unsilent.choices import FeatureDtype
from unsilent.clip import Clip
from unsilent.data.datasets import at_speed
from unsilent.data.manifest import Row
from unsilent.data.shards import Shard, as_mel01, coarse, sounds_in
from unsilent.media.audio import read_audio
from unsilent.media.video import stream_frames, stream_lazy_frames
from unsilent.models.codebook import Codebook
from unsilent.signal.loudness import TARGET_LUFS, normalise_loudness
from unsilent.signal.mel import from_mel01, log_mel01
from unsilent.signal.silence import SILENT_PEAK, trim_silent_ends
from unsilent.speed.threads import one_thread
from unsilent.vision.features import Backbone, extract, find_backbone, needed_frames, network_inputs
from unsilent.vision.motion import CHANNELS, MotionMeter

PSEUDO_FRAMES = 3  # moved and zoomed views of one picture
CODE_VARIANTS = 2  # encodings of one sound
CODE_SPEEDS = (0.85, 1.18)  # that a sound without pictures of its own is played at: as many lower as higher
VERSION = 1  # of the extractors; to be raised when the same material gives other bytes
CODES_VERSION = 4  # of that of codes, whose entries say since then how far their sound was moved, and how fast it is played


class Piece(NamedTuple):
    """What became of one item: `entries` of the shard, and names of what was left out, with the reasons."""

    entries: list[tuple[np.ndarray, dict[str, Any]]]
    left_out: list[tuple[str, str]]


@dataclass(frozen=True)
class File:
    """The rows of one file, which is read once for all of them."""

    rows: tuple[Row, ...]

    @property
    def names(self) -> list[str]:
        """Of its clips."""
        return [row.clip_id for row in self.rows]

    def __str__(self) -> str:
        return self.rows[0].path


@dataclass(frozen=True)
class Stored:
    """An item of a shard that is the material of another."""

    number: int
    name: str

    @property
    def names(self) -> list[str]:
        """Of its clip."""
        return [self.name]

    def __str__(self) -> str:
        return self.name


def files(rows: Sequence[Row], *kinds: str) -> list[File]:
    """Rows of some kinds, those of one file together."""
    return [File(tuple(group)) for _, group in groupby((row for row in rows if row.kind in kinds), key=lambda row: row.path)]


def stored(shards: Path) -> list[Stored]:
    """Items that codes can be made of: those of the shard `waveforms`, or of `mels` where there are no waveforms."""
    return [Stored(number, entry.about["clip_id"]) for number, entry in enumerate(Shard(shards, sounds_in(shards)).entries)]


@runtime_checkable
class Extractor(Protocol):
    """Makes pieces of the shard of the name `shard`; picklable."""

    shard: str

    def recipe(self) -> dict[str, Any]:
        """What the bytes depend on besides the items."""

    def __call__(self) -> Callable[[Any], Piece]:
        """The work on an item; what it raises leaves the whole item out."""


@dataclass(frozen=True)
class Sounds:
    """Makes of `File`s the shard `waveforms`, int16 mono at the clip's rate, or `mels`, uint8 `[frames, mels]`, all at one loudness.

    Recordings are trimmed of silent ends; a clip keeps its silence, which belongs to its pictures. Mels of [0, 1] are stored as 0 to 255,
    in steps of 0.39 dB.

    Attributes:
        root: folder that paths start from.
        clip: the grid.
        shard: `waveforms` or `mels`.
    """

    root: Path
    clip: Clip
    shard: str = "waveforms"

    def recipe(self) -> dict[str, Any]:
        """Grid and loudness."""
        return {"clip": self.clip.model_dump(), "loudness_lufs": TARGET_LUFS, "version": VERSION}

    def __call__(self) -> Callable[[File], Piece]:
        """Needs nothing but itself."""
        return self.read

    def read(self, file: File) -> Piece:
        """All sounds of one file."""
        rate, piece = self.clip.sample_rate, Piece([], [])
        whole = read_audio(self.root / str(file), rate)
        for row in file.rows:
            first = round(row.start_seconds * rate)
            waveform = trim_silent_ends(whole) if row.kind == "sound" else whole[first : first + round(row.duration_seconds * rate)]
            if len(waveform) < self.clip.column_samples or not np.abs(waveform).max() > SILENT_PEAK:
                piece.left_out.append((row.clip_id, f"{file} is silent or shorter than {self.clip.column_seconds:.2f} s."))
            else:
                piece.entries.append((self._stored(normalise_loudness(waveform, rate)), _about(row)))
        return piece

    def _stored(self, waveform: Float[np.ndarray, "samples"]) -> np.ndarray:
        if self.shard == "waveforms":
            return np.round(waveform * 32767).astype(np.int16)
        with one_thread():
            mel01 = log_mel01(torch.from_numpy(waveform)[None], self.clip)[0]
        return np.round(mel01.T.numpy() * 255).astype(np.uint8)


@dataclass(frozen=True)
class Features:
    """Makes of `File`s the shard `features`: some for each code column of a clip, or one per pseudo-frame of a picture.

    Attributes:
        root: folder that paths start from.
        clip: the grid.
        backbone: name of the picture network; it works on a GPU where there is one.
        seed: of the random views of pictures.
        per_column: how many for each code column: all that the grid has, or the last of them alone.
        dtype: `float16`, or `uint8` for half of that, in 255 steps between the lowest and the highest number of an item.
    """

    root: Path
    clip: Clip
    backbone: str
    seed: int
    per_column: int = 1
    dtype: FeatureDtype = "float16"
    shard: ClassVar[str] = "features"

    def recipe(self) -> dict[str, Any]:
        """Network, views and grid."""
        row = find_backbone(self.backbone)
        looked = {"backbone": self.backbone, "dim": row.dim, "rows_per_column": self.per_column, "pseudo_frames": PSEUDO_FRAMES}
        return {**looked, "dtype": self.dtype, "seed": self.seed, "clip": self.clip.model_dump(), "version": VERSION}

    def __call__(self) -> Callable[[File], Piece]:
        """Loads the picture network."""
        module, expects = bundle.load_backbone(self.backbone)
        module.to("cuda" if torch.cuda.is_available() else "cpu")

        def look(file: File) -> Piece:
            with one_thread():
                if file.rows[0].kind == "image":
                    return self._of_picture(file, module, expects)
                return self._of_clips(file, module, expects)

        return look

    def _of_picture(self, file: File, module: nn.Module, expects: Backbone) -> Piece:
        rng = np.random.default_rng([self.seed, len(str(file)), *str(file).encode()])
        features = extract(_pseudo_views(self.root / str(file), rng, expects), module, expects)
        return Piece([self._stored(features.numpy(), row) for row in file.rows], [])

    def _stored(self, features: Float[np.ndarray, "features dim"], row: Row) -> tuple[np.ndarray, dict[str, Any]]:
        if self.dtype == "float16":
            return features.astype(np.float16), _about(row)
        stored, steps = coarse(features)
        return stored, {**_about(row), **steps}

    def _of_clips(self, file: File, module: nn.Module, expects: Backbone) -> Piece:
        """What the network says of the last picture of each column, the rows 3, 7, 11… that 53 features of 212 pick; or of all rows."""
        clip, every = self.clip, self.clip.column_features // self.per_column
        spans = []  # of numbers of pictures, at the rate of features from the file's first on
        for row in file.rows:
            first, n_columns = round(row.start_seconds * clip.feature_fps), clip.columns_for(round(row.duration_seconds * clip.sample_rate))
            spans.append(range(first + every - 1, first + n_columns * clip.column_features, every))
        wanted = sorted({number for span in spans for number in span})
        stream = stream_frames(
            self.root / str(file), clip.feature_fps, wanted=needed_frames(wanted, expects), short_side=expects.short_side
        )
        numbers: list[int] = []

        def seen() -> Iterator[np.ndarray]:
            for number, view in network_inputs(((round(seconds * clip.feature_fps), frame) for seconds, frame in stream), wanted, expects):
                numbers.append(number)
                yield view

        features, piece = extract(seen(), module, expects).numpy(), Piece([], [])
        for row, span in zip(file.rows, spans, strict=True):
            mine = np.isin(numbers, span)
            if mine.any():
                piece.entries.append(self._stored(features[mine], row))
            else:
                piece.left_out.append((row.clip_id, f"{file} has no frame from {row.start_seconds:.2f} s on."))
        return piece


@dataclass(frozen=True)
class Motion:
    """Makes of `File`s the shard `motion`, float16 `[columns, numbers]`: the levels of `motion.MotionMeter` at each feature of a column.

    Attributes:
        root: folder that paths start from.
        clip: the grid.
    """

    root: Path
    clip: Clip
    shard: ClassVar[str] = "motion"

    def recipe(self) -> dict[str, Any]:
        """The grid."""
        return {"clip": self.clip.model_dump(), "version": VERSION}

    def __call__(self) -> Callable[[File], Piece]:
        """Needs nothing but itself."""
        return self.watch

    def watch(self, file: File) -> Piece:
        """All clips of one file; where its pictures end before a clip does, nothing moves any more."""
        clip, meter, piece = self.clip, MotionMeter(), Piece([], [])
        spans = []  # of numbers of pictures, at the rate of features from the file's first on
        for row in file.rows:
            first, n_columns = round(row.start_seconds * clip.feature_fps), clip.columns_for(round(row.duration_seconds * clip.sample_rate))
            spans.append(range(first, first + n_columns * clip.column_features))
        for frame in stream_lazy_frames(self.root / str(file), clip.feature_fps, wanted=set[int]().union(*spans)):
            meter.add(frame.number, frame.grey())
        for row, span in zip(file.rows, spans, strict=True):
            levels = np.stack([meter.levels.get(number, np.zeros(CHANNELS)) for number in span])
            piece.entries.append((levels.astype(np.float16).reshape(-1, clip.column_features * CHANNELS), _about(row)))
        return piece


def _pseudo_views(path: Path, rng: np.random.Generator, expects: Backbone) -> Iterator[np.ndarray]:
    """Views of one picture as a still camera would give them: cropped to 60-100 % of its area, shifted, half of them mirrored."""
    with Image.open(path) as picture:
        picture = picture.convert("RGB")
        for _ in range(PSEUDO_FRAMES):
            side = np.sqrt(rng.uniform(0.6, 1.0))
            width, height = (max(1, round(side * length)) for length in picture.size)
            left, top = rng.integers(0, picture.width - width + 1), rng.integers(0, picture.height - height + 1)
            view = picture.crop((left, top, left + width, top + height))
            array = np.asarray(view)
            array = np.ascontiguousarray(array[:, ::-1]) if rng.random() < 0.5 else array
            yield np.stack([array, array]) if expects.pairs else array


@dataclass(frozen=True)
class Codes:
    """Makes of `Stored` sounds the shard `codes`, int16 `[columns, rows]`.

    Waveforms give several gently varied encodings, each saying how fast it is played, and by how many of its samples it begins later; one
    longer than a clip gives several entries, each naming the column it starts at.

    Attributes:
        shards: folder with the sounds.
        codebook: checkpoint folder.
        seed: of the variations.
        variants: encodings of each waveform, the first of which is as it is; mels give that alone.
    """

    shards: Path
    codebook: Path
    seed: int
    variants: int = CODE_VARIANTS
    shard: ClassVar[str] = "codes"

    def recipe(self) -> dict[str, Any]:
        """The codebook, the sounds, the seed, and how many variations."""
        config, sounds = read_config(self.codebook)["config"], Shard(self.shards, sounds_in(self.shards))
        made_of = {"codebook": config, "weights": weights_digest(self.codebook), "sounds": sounds.digest}
        return {**made_of, "seed": self.seed, "variants": self.variants, "version": CODES_VERSION}

    def __call__(self) -> Callable[[Stored], Piece]:
        """Loads the codebook."""
        codebook, sounds = load_checkpoint(self.codebook, "codebook"), Shard(self.shards, sounds_in(self.shards))
        codebook.to(device := torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        read = self._of_waveform if sounds.array.ndim == 1 else self._of_mel

        def encode(item: Stored) -> Piece:
            with one_thread(), torch.inference_mode():
                about = sounds.entries[item.number].about
                found = read(codebook, device, torch.from_numpy(np.array(sounds[item.number])), item.number, about["kind"] == "sound")
                return Piece([(grid, {**about, "item": item.number, **where}) for where, grid in found], [])

        return encode

    def _of_waveform(
        self, codebook: Codebook, device: torch.device, stored: torch.Tensor, number: int, may_move: bool
    ) -> Iterator[tuple[dict[str, float], np.ndarray]]:
        clip, waveform, rng = codebook.config.clip, stored.float() / 32768, np.random.default_rng([self.seed, number])
        for variant in range(self.variants):
            # only sounds without pictures of their own may move in time
            speed = float(np.exp(rng.uniform(*np.log(CODE_SPEEDS)))) if may_move and variant else 1.0
            shift = int(rng.integers(clip.column_samples)) if may_move and variant else 0
            gain = 10 ** (rng.uniform(-6, 3) / 20) if variant else 1.0
            played = waveform if speed == 1 else torch.from_numpy(at_speed(waveform.numpy(), speed))
            shift = min(shift, len(played) // 2)  # of a sound of one column something stays
            for start, piece in _pieces(played[shift:] * gain, clip.column_samples, clip):
                where = {"variant": variant, "speed": speed, "shift_samples": shift, "start_column": start}
                yield where, _grid(codebook, log_mel01(piece[None].to(device), clip))

    def _of_mel(
        self, codebook: Codebook, device: torch.device, stored: torch.Tensor, number: int, may_move: bool
    ) -> Iterator[tuple[dict[str, float], np.ndarray]]:
        clip = codebook.config.clip
        for start, piece in _pieces(torch.from_numpy(as_mel01(stored.numpy())).T, clip.downsampling, clip):
            yield {"variant": 0, "speed": 1.0, "shift_samples": 0, "start_column": start}, _grid(codebook, piece[None].to(device))


def _pieces(sound: torch.Tensor, column: int, clip: Clip) -> Iterator[tuple[int, torch.Tensor]]:
    """Stretches of a clip's length along the last axis, where `column` values make a code column, filled with silence to whole columns."""
    n_columns = max(1, -(-sound.shape[-1] // column))
    padded = nn.functional.pad(sound, (0, n_columns * column - sound.shape[-1]))
    for start in range(0, n_columns, clip.columns):
        yield start, padded[..., start * column : (start + clip.columns) * column]


def _grid(codebook: Codebook, mel01: torch.Tensor) -> np.ndarray:
    return codebook.encode(from_mel01(mel01))[0].T.cpu().numpy().astype(np.int16)


def _about(row: Row) -> dict[str, Any]:
    return {"clip_id": row.clip_id, "kind": row.kind, "label": row.label, "split": row.split, "sample_rate": row.sample_rate}
