"""Extractors make items of the shards `waveforms` or `mels`, `features`, `motion` and `codes` from files.

An extractor has the name and settings of its shard. Calling it loads the networks and returns a function for one file or sound, which
`jobs.extract` calls in one or several processes.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Int16, Shaped, UInt8
from PIL import Image
from torch import Tensor, nn

from unsilent.checkpoints import bundle
from unsilent.checkpoints.folders import read_config
from unsilent.checkpoints.store import load_codebook, weights_digest
from unsilent.choices import FeatureDtype, Loudness, SoundShard
from unsilent.clip import Clip
from unsilent.data.datasets import at_speed
from unsilent.data.manifest import Row
from unsilent.data.rows import CodesRow, FeaturesRow, ItemRow
from unsilent.data.shards import Item, Shard, mel01_from_stored, quantise, sound_shard
from unsilent.media.audio import read_audio
from unsilent.media.video import stream_frames, stream_lazy_frames
from unsilent.models.residual_codebook import AnyCodebook, ResidualCodebook
from unsilent.signal.loudness import LOUDNESS, TARGET_LUFS, normalise_loudness
from unsilent.signal.mel import from_mel01, log_mel01
from unsilent.signal.silence import SILENT_PEAK, trim_silent_ends
from unsilent.speed.choice import choose_device
from unsilent.speed.cpu_convolutions import can_fuse, fuse
from unsilent.speed.threads import one_thread
from unsilent.vision.features import Backbone, extract, find_backbone, needed_frames, network_inputs
from unsilent.vision.impact import ImpactMeter
from unsilent.vision.motion import CHANNELS

PSEUDO_FRAMES = 3  # random crops of one image
CODE_VARIANTS = 2  # encodings of one sound
_EVENT_COLUMNS = 16  # a shorter sound, below 3 s at the paper's grid, counts as a single event
CODE_SPEEDS = (0.85, 1.18)  # range of playback speeds for sounds without a video, drawn log-uniformly
VERSION = 2  # version of the extractors of sounds and features; increase it when the same material gives other bytes
_BEAM = 4  # beam width while encoding training data: four times as fast as 16
CODES_VERSION = 5  # version of the extractor of codes
MOTION_VERSION = 2  # version of the extractor of motion


class Extracted(NamedTuple):
    """Result of one file or sound: items for the shard, and omitted clips with reasons."""

    items: list[Item]
    left_out: list[tuple[str, str]]


@dataclass(frozen=True)
class File:
    """The manifest's rows of one file, which is read once. The `repr` is part of the digest of the material (`jobs.extract`)."""

    rows: tuple[Row, ...]

    @property
    def names(self) -> list[str]:
        """Clip ids."""
        return [row.clip_id for row in self.rows]

    def __str__(self) -> str:
        return self.rows[0].path


@dataclass(frozen=True)
class Stored:
    """A sound in a shard that is to be encoded. The `repr` is part of the digest of the material (`jobs.extract`)."""

    number: int
    name: str

    @property
    def names(self) -> list[str]:
        """Clip id, as a list."""
        return [self.name]

    def __str__(self) -> str:
        return self.name


def group_by_file(rows: Sequence[Row], *kinds: str) -> list[File]:
    """Rows of some kinds, grouped by file; rows of one file must be adjacent."""
    return [File(tuple(group)) for _, group in groupby((row for row in rows if row.kind in kinds), key=lambda row: row.path)]


def stored_sounds(shards: Path) -> list[Stored]:
    """Items of the shard `waveforms`, or of `mels` if there are no waveforms."""
    return [Stored(number, entry.row.clip_id) for number, entry in enumerate(Shard(shards, sound_shard(shards)).entries)]


@runtime_checkable
class Extractor(Protocol):
    """Makes items of the shard named `shard`; must be picklable."""

    shard: str

    def settings(self) -> dict[str, Any]:
        """All settings that determine the bytes, besides the material; they are stored in the index of the shard."""

    def __call__(self) -> Callable[[Any], Extracted]:
        """Return a function that extracts one file or sound; if it raises, all clips of the file are left out."""


@dataclass(frozen=True)
class SoundExtractor:
    """`File` → items of `waveforms` (int16 `[samples]`) or `mels` (uint8 `[frames, mels]`), normalised in loudness or as recorded.

    With normalisation, silent ends of recordings are trimmed, but not those of clips, which must keep the timing of the video. Without it,
    sounds are unchanged and silent ones are kept, as in the paper. Mels in [0, 1] are stored as 0 to 255, in steps of 0.39 dB.

    Attributes:
        root: folder of the material.
        clip: sample rate and mel settings.
        shard: `waveforms` or `mels`.
        loudness: `normalise` to -23 LUFS, or `keep`.
    """

    root: Path
    clip: Clip
    shard: SoundShard = "waveforms"
    loudness: Loudness = "normalise"

    def settings(self) -> dict[str, Any]:
        """Clip and loudness."""
        return {"clip": self.clip.model_dump(), LOUDNESS: TARGET_LUFS if self.loudness == "normalise" else None, "version": VERSION}

    def __call__(self) -> Callable[[File], Extracted]:
        """Return `read`."""
        return self.read

    def read(self, file: File) -> Extracted:
        """All sounds of one file.

        Raises:
            MediaError: if the file cannot be read.
        """
        rate, extracted = self.clip.sample_rate, Extracted([], [])
        whole = read_audio(self.root / str(file), rate)
        for row in file.rows:
            first = round(row.start_seconds * rate)
            waveform = whole if row.kind == "sound" else whole[first : first + round(row.duration_seconds * rate)]
            if self.loudness == "normalise":
                audible = trim_silent_ends(waveform) if row.kind == "sound" else waveform
                waveform = normalise_loudness(audible, rate) if np.abs(audible).max(initial=0) > SILENT_PEAK else audible[:0]
            if len(waveform) < self.clip.column_samples:
                extracted.left_out.append((row.clip_id, f"{file} is silent or shorter than {self.clip.column_seconds:.2f} s."))
            else:
                extracted.items.append((self._stored(waveform), _item_row(row)))
        return extracted

    def _stored(self, waveform: Float[np.ndarray, "samples"]) -> Int16[np.ndarray, "samples"] | UInt8[np.ndarray, "frames mels"]:
        if self.shard == "waveforms":
            return np.round(waveform.clip(-1, 1) * 32767).astype(np.int16)
        with one_thread():
            mel01 = log_mel01(torch.from_numpy(waveform)[None], self.clip)[0]
        return np.round(mel01.T.numpy() * 255).astype(np.uint8)


@dataclass(frozen=True)
class FeatureExtractor:
    """`File` → items of `features`, `[features, dim]`: `per_column` for each code column of a clip, or one for each crop of an image.

    Attributes:
        root: folder of the material.
        clip: feature rate and columns.
        backbone: name of the image network; it runs on a GPU if there is one.
        seed: seed of the random crops of images.
        per_column: features per code column: `clip.column_features` for all, or 1 for the last of each column.
        dtype: `float16`, or `uint8` in 255 steps between the lowest and highest value of an item.
    """

    root: Path
    clip: Clip
    backbone: str
    seed: int
    per_column: int = 1
    dtype: FeatureDtype = "float16"
    shard: ClassVar[str] = "features"

    def settings(self) -> dict[str, Any]:
        """Network, rate, dtype, crops and clip."""
        dim = find_backbone(self.backbone).dim
        network = {"backbone": self.backbone, "dim": dim, "rows_per_column": self.per_column, "pseudo_frames": PSEUDO_FRAMES}
        return {**network, "dtype": self.dtype, "seed": self.seed, "clip": self.clip.model_dump(), "version": VERSION}

    def __call__(self) -> Callable[[File], Extracted]:
        """Load the image network; returns the function for one file."""
        module, expects = bundle.load_backbone(self.backbone)
        if can_fuse(device := choose_device("auto"), torch.float32):
            fuse(module, torch.float32)
        module.to(device)

        def work(file: File) -> Extracted:
            with one_thread():
                if file.rows[0].kind == "image":
                    return self._of_image(file, module, expects)
                return self._of_clips(file, module, expects)

        return work

    def _of_image(self, file: File, module: nn.Module, expects: Backbone) -> Extracted:
        rng = np.random.default_rng([self.seed, len(str(file)), *str(file).encode()])
        features = extract(_random_crops(self.root / str(file), rng, expects), module, expects)
        return Extracted([self._stored(features.numpy(), row) for row in file.rows], [])

    def _stored(
        self, features: Float32[np.ndarray, "features dim"], row: Row
    ) -> tuple[Float16[np.ndarray, "features dim"] | UInt8[np.ndarray, "features dim"], FeaturesRow]:
        columns = vars(_item_row(row))
        if self.dtype == "float16":
            return features.astype(np.float16), FeaturesRow(**columns)
        stored, lowest, step = quantise(features)
        return stored, FeaturesRow(**columns, lowest=lowest, step=step)

    def _of_clips(self, file: File, module: nn.Module, expects: Backbone) -> Extracted:
        """Features of the last frame of each column (rows 3, 7, 11, ... of 212), or of all frames."""
        clip, every = self.clip, self.clip.column_features // self.per_column
        spans = [span[every - 1 :: every] for span in _frame_spans(file, clip)]
        wanted = sorted({number for span in spans for number in span})
        stream = stream_frames(
            self.root / str(file), clip.feature_fps, wanted=needed_frames(wanted, expects), short_side=expects.decoded_side
        )
        numbers: list[int] = []  # numbers of the frames that the video has

        def inputs() -> Iterator[np.ndarray]:
            for number, view in network_inputs(((round(seconds * clip.feature_fps), frame) for seconds, frame in stream), wanted, expects):
                numbers.append(number)
                yield view

        features, extracted = extract(inputs(), module, expects).numpy(), Extracted([], [])
        for row, span in zip(file.rows, spans, strict=True):
            in_clip = np.isin(numbers, span)
            if in_clip.any():
                extracted.items.append(self._stored(features[in_clip], row))
            else:
                extracted.left_out.append((row.clip_id, f"{file} has no frame at or after {row.start_seconds:.2f} s."))
        return extracted


@dataclass(frozen=True)
class MotionExtractor:
    """`File` → items of `motion`, float16 `[columns, column_features * CHANNELS]`: levels of `vision.impact` at each feature's time.

    Attributes:
        root: folder of the material.
        clip: feature rate and columns.
    """

    root: Path
    clip: Clip
    shard: ClassVar[str] = "motion"

    def settings(self) -> dict[str, Any]:
        """Clip and version."""
        return {"clip": self.clip.model_dump(), "version": MOTION_VERSION}

    def __call__(self) -> Callable[[File], Extracted]:
        """Return `measure`."""
        return self.measure

    def measure(self, file: File) -> Extracted:
        """Motion of all clips of one file; after the last frame of the video, it is 0.

        Raises:
            MediaError: if the file cannot be read.
        """
        clip, meter, extracted = self.clip, ImpactMeter(), Extracted([], [])
        spans = _frame_spans(file, clip)
        for frame in stream_lazy_frames(self.root / str(file), clip.feature_fps, wanted=set[int]().union(*spans)):
            meter.add(frame.number, frame.grey())
        for row, span in zip(file.rows, spans, strict=True):
            levels = np.stack([meter.levels.get(number, np.zeros(CHANNELS)) for number in span])
            extracted.items.append((levels.astype(np.float16).reshape(-1, clip.column_features * CHANNELS), _item_row(row)))
        return extracted


def _frame_spans(file: File, clip: Clip) -> list[range]:
    """Frame numbers of each row's clip, at the feature rate, counted from the first frame of the file."""
    spans = []
    for row in file.rows:
        first, n_columns = round(row.start_seconds * clip.feature_fps), clip.columns_for(round(row.duration_seconds * clip.sample_rate))
        spans.append(range(first, first + n_columns * clip.column_features))
    return spans


def _random_crops(path: Path, rng: np.random.Generator, expects: Backbone) -> Iterator[UInt8[np.ndarray, "*pair height width 3"]]:
    """Random crops of 60 to 100 % of the area of an image, each mirrored with probability 0.5."""
    with Image.open(path) as image:
        image = image.convert("RGB")
        for _ in range(PSEUDO_FRAMES):
            side = np.sqrt(rng.uniform(0.6, 1.0))
            width, height = (max(1, round(side * length)) for length in image.size)
            left, top = rng.integers(0, image.width - width + 1), rng.integers(0, image.height - height + 1)
            array = np.asarray(image.crop((left, top, left + width, top + height)))
            array = np.ascontiguousarray(array[:, ::-1]) if rng.random() < 0.5 else array
            yield np.stack([array, array]) if expects.pairs else array


@dataclass(frozen=True)
class CodeExtractor:
    """`Stored` → items of `codes`, int16 `[columns, rows]`; for a residual codebook only the first `clip.levels` levels.

    Waveforms are encoded several times, with random gain, and for sounds without a video with random speed and start. An encoding longer
    than a clip is split into several items.

    Attributes:
        shards: folder of the shard with the sounds.
        codebook: checkpoint folder.
        seed: seed of the random changes.
        variants: number of encodings of each waveform, the first of which is unchanged; mels are encoded once.
    """

    shards: Path
    codebook: Path
    seed: int
    variants: int = CODE_VARIANTS
    shard: ClassVar[str] = "codes"

    def settings(self) -> dict[str, Any]:
        """Codebook, sounds, seed and number of variants."""
        config, sounds = read_config(self.codebook)["config"], Shard(self.shards, sound_shard(self.shards))
        sources = {"codebook": config, "weights": weights_digest(self.codebook), "sounds": sounds.digest}
        return {**sources, "seed": self.seed, "variants": self.variants, "version": CODES_VERSION}

    def __call__(self) -> Callable[[Stored], Extracted]:
        """Load the codebook; returns the function for one sound."""
        codebook, sounds = load_codebook(self.codebook), Shard(self.shards, sound_shard(self.shards))
        codebook.to(device := choose_device("auto"))
        if isinstance(codebook, ResidualCodebook):
            codebook.quantize.beam = min(codebook.quantize.beam, _BEAM)
        encode = self._encode_waveform if sounds.array.ndim == 1 else self._encode_mel

        def work(item: Stored) -> Extracted:
            row, stored = sounds.entries[item.number].row, torch.from_numpy(np.array(sounds[item.number]))
            with one_thread(), torch.inference_mode():
                found = encode(codebook, device, stored, item.number, row.kind == "sound")
                return Extracted([(codes, CodesRow(**vars(row), item=item.number, **where)) for where, codes in found], [])

        return work

    def _encode_waveform(
        self, codebook: AnyCodebook, device: torch.device, stored: Shaped[Tensor, "samples"], number: int, may_move: bool
    ) -> Iterator[tuple[dict[str, float], Int16[np.ndarray, "columns rows"]]]:
        clip, waveform, rng = codebook.config.clip, stored.float() / 32768, np.random.default_rng([self.seed, number])
        for variant in range(self.variants):
            # a clip must stay in time with its video
            speed = float(np.exp(rng.uniform(*np.log(CODE_SPEEDS)))) if may_move and variant else 1.0
            shift = int(rng.integers(clip.column_samples)) if may_move and variant else 0
            gain = 10 ** (rng.uniform(-6, 3) / 20) if variant else 1.0
            played = waveform if speed == 1 else torch.from_numpy(at_speed(waveform.numpy(), speed))
            if len(played) < _EVENT_COLUMNS * clip.column_samples:  # a short sound keeps its attack, so silence is put before it instead
                shift = -shift
            moved = played[shift:] if shift >= 0 else nn.functional.pad(played, (-shift, 0))
            for start, piece in _clips_of(moved * gain, clip.column_samples, clip):
                where = {"variant": variant, "speed": speed, "shift_samples": shift, "start_column": start}
                yield where, _encode(codebook, log_mel01(piece[None].to(device), clip))

    def _encode_mel(
        self, codebook: AnyCodebook, device: torch.device, stored: Shaped[Tensor, "frames mels"], number: int, may_move: bool
    ) -> Iterator[tuple[dict[str, float], Int16[np.ndarray, "columns rows"]]]:
        clip = codebook.config.clip
        for start, piece in _clips_of(torch.from_numpy(mel01_from_stored(stored.numpy())).T, clip.downsampling, clip):
            where = {"variant": 0, "speed": 1.0, "shift_samples": 0, "start_column": start}
            yield where, _encode(codebook, piece[None].to(device))


def _clips_of(sound: Shaped[Tensor, "*mels time"], column: int, clip: Clip) -> Iterator[tuple[int, Shaped[Tensor, "*mels piece"]]]:
    """Start columns and clips along the last axis, zero-padded to whole columns of `column` values."""
    n_columns = max(1, -(-sound.shape[-1] // column))
    padded = nn.functional.pad(sound, (0, n_columns * column - sound.shape[-1]))
    for start in range(0, n_columns, clip.columns):
        yield start, padded[..., start * column : (start + clip.columns) * column]


def _encode(codebook: AnyCodebook, mel01: Float[Tensor, "1 mels frames"]) -> Int16[np.ndarray, "columns rows"]:
    levels = (codebook.config.clip.levels,) if isinstance(codebook, ResidualCodebook) else ()
    return codebook.encode(from_mel01(mel01), *levels)[0].T.cpu().numpy().astype(np.int16)


def _item_row(row: Row) -> ItemRow:
    return ItemRow(row.clip_id, row.kind, row.label, row.split, row.sample_rate)
