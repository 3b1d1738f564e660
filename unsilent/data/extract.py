"""From a manifest to shards: loudness-normalised waveforms, visual features, and codes. One damaged item is reported and skipped."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import nn

from unsilent import presets
from unsilent.checkpoints.bundle import load_backbone
from unsilent.checkpoints.store import load_checkpoint
from unsilent.clip import Clip
from unsilent.data.manifest import Row, read_manifest
from unsilent.data.shards import Shard, write_shard
from unsilent.errors import MediaError, UnsilentError
from unsilent.features import Backbone, extract, needed, views
from unsilent.media.audio import read_audio
from unsilent.media.video import stream_frames
from unsilent.models.codebook import Codebook
from unsilent.signal.loudness import TARGET_LUFS, normalise_loudness
from unsilent.signal.mel import from_mel01, log_mel01

log = logging.getLogger(__name__)

EDGE_DB = -50.0  # what is quieter than this below the peak, at either end, is padding and not sound
PSEUDO_FRAMES = 3  # moved and zoomed views of one picture
CODE_VARIANTS = 2  # shifted and scaled encodings of one sound


def extract_waveforms(rows: list[Row], root: Path, out: Path, clip: Clip, progress: Callable[[str], None]) -> int:
    """Write the shard `waveforms`: int16 mono at the clip's rate, trimmed of silent ends, at one loudness.

    Returns:
        How many sounds were written; rows without sound or damaged are logged and left out.
    """

    def items() -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        for row in (row for row in rows if row.kind != "image"):
            progress(row.clip_id)
            try:
                waveform = read_audio(root / row.path, clip.sample_rate)
            except MediaError as error:
                log.warning("left out: %s", error)
                continue
            if row.kind == "sound":  # a clip keeps its silence, which belongs to its pictures
                waveform = trim_silent_ends(waveform)
            if len(waveform) < clip.column_samples or not np.abs(waveform).max() > 1e-4:
                log.warning("left out: %s is silent or shorter than %.2f s", row.path, clip.column_seconds)
                continue
            waveform = normalise_loudness(waveform, clip.sample_rate)
            yield np.round(waveform * 32767).astype(np.int16), _about(row)

    return write_shard(out, "waveforms", items(), {"clip": clip.model_dump(), "loudness_lufs": TARGET_LUFS})


def trim_silent_ends(waveform: Float[np.ndarray, "samples"]) -> Float[np.ndarray, "kept"]:
    """Cut what is more than 50 dB below the peak at both ends."""
    loud = np.flatnonzero(np.abs(waveform) > np.abs(waveform).max(initial=0) * 10 ** (EDGE_DB / 20))
    return waveform[loud[0] : loud[-1] + 1] if len(loud) else waveform[:0]


def extract_features(
    rows: list[Row], root: Path, out: Path, clip: Clip, backbone: tuple[nn.Module, Backbone], seed: int, progress: Callable[[str], None]
) -> int:
    """Write the shard `features`: float16 visual features, one per code column of a clip, or one per pseudo-frame of a picture."""
    module, expects = backbone

    def items() -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
        for row in (row for row in rows if row.kind != "sound"):
            progress(row.clip_id)
            rng = np.random.default_rng([seed, len(row.path), *row.path.encode()])
            try:
                pictures = (
                    _pseudo_views(root / row.path, rng, expects)
                    if row.kind == "image"
                    else _column_views(root / row.path, row, clip, expects)
                )
                features = extract(pictures, module, expects)
            except (UnsilentError, OSError, Image.DecompressionBombError) as error:
                log.warning("left out: %s: %s", row.path, error)
                continue
            yield np.asarray(features, dtype=np.float16), _about(row)

    recipe = {"backbone": type(module).__name__, "dim": expects.dim, "pseudo_frames": PSEUDO_FRAMES, "clip": clip.model_dump()}
    return write_shard(out, "features", items(), recipe)


def _column_views(path: Path, row: Row, clip: Clip, expects: Backbone) -> Iterator[np.ndarray]:
    """What the network sees of the last picture of each code column: the rows 3, 7, 11… that 53 features of 212 pick."""
    n_columns = clip.columns_for(round(row.duration_seconds * clip.sample_rate))
    step = clip.column_features
    rows = range(step - 1, n_columns * step, step)
    stream = stream_frames(path, clip.feature_fps, wanted=needed(rows, expects), short_side=expects.short_side)
    for _number, view in views(((round(seconds * clip.feature_fps), frame) for seconds, frame in stream), rows, expects):
        yield view


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


@torch.inference_mode()
def extract_codes(codebook: Codebook, shards: Path, seed: int, progress: Callable[[str], None]) -> int:
    """Write the shard `codes`, int16 `[columns, rows]`, from the shard `waveforms`, or from `mels` where there are no waveforms.

    Waveforms give several gently varied encodings; one longer than a clip gives several entries, each naming the column it starts at.
    """
    items = _codes_of_waveforms if (shards / "waveforms.json").exists() else _codes_of_mels
    recipe = {"codebook": codebook.config.model_dump(mode="json")}
    return write_shard(shards, "codes", items(codebook, shards, seed, progress), recipe)


def _codes_of_waveforms(
    codebook: Codebook, shards: Path, seed: int, progress: Callable[[str], None]
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    waveforms, clip = Shard(shards, "waveforms"), codebook.config.clip
    for i, entry in enumerate(waveforms.entries):
        progress(entry.about["clip_id"])
        waveform = torch.from_numpy(waveforms[i].astype(np.float32) / 32768)
        rng = np.random.default_rng([seed, i])
        for variant in range(CODE_VARIANTS):
            # only sounds without pictures of their own may move in time
            shift = int(rng.integers(clip.column_samples)) if entry.about["kind"] == "sound" and variant else 0
            gain = 10 ** (rng.uniform(-6, 3) / 20) if variant else 1.0
            for start, grid in _encode(codebook, waveform[shift:] * gain):
                yield grid, {**entry.about, "item": i, "variant": variant, "start_column": start}


def _codes_of_mels(
    codebook: Codebook, shards: Path, seed: int, progress: Callable[[str], None]
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    mels = Shard(shards, "mels")
    for i, entry in enumerate(mels.entries):
        progress(entry.about["clip_id"])
        mel01 = torch.from_numpy(mels[i].astype(np.float32)).T[None]
        grid = codebook.encode(from_mel01(mel01))[0]
        yield grid.T.numpy().astype(np.int16), {**entry.about, "item": i, "variant": 0, "start_column": 0}


def _encode(codebook: Codebook, waveform: Float[torch.Tensor, "samples"]) -> Iterator[tuple[int, np.ndarray]]:
    clip = codebook.config.clip
    n_columns = clip.columns_for(len(waveform))
    padded = torch.nn.functional.pad(waveform, (0, n_columns * clip.column_samples - len(waveform)))
    for start in range(0, n_columns, clip.columns):
        piece = padded[start * clip.column_samples : (start + clip.columns) * clip.column_samples]
        grid = codebook.encode(from_mel01(log_mel01(piece[None], clip)))[0]
        yield start, grid.T.numpy().astype(np.int16)


def _about(row: Row) -> dict[str, Any]:
    return {"clip_id": row.clip_id, "kind": row.kind, "label": row.label, "split": row.split, "sample_rate": row.sample_rate}


def extract_all(table: Path, out: Path, preset_name: str, seed: int) -> dict[str, int]:
    """Write the shards `waveforms` and `features` for a manifest.

    Args:
        table: manifest; its rows' paths are relative to the folder it was made from.
        out: folder of shards.
        preset_name: gives the clip and the backbone.
        seed: of the random views of pictures.

    Returns:
        How many items each shard has.
    """
    root, rows = read_manifest(table)
    preset = presets.get(preset_name)
    return {
        "waveforms": extract_waveforms(rows, root, out, preset.clip, _say("waveforms")),
        "features": extract_features(rows, root, out, preset.clip, load_backbone(preset.backbone), seed, _say("features")),
    }


def extract_codes_with(codebook: Path, out: Path, seed: int) -> dict[str, int]:
    """Write the shard `codes` with the codebook of a checkpoint folder."""
    return {"codes": extract_codes(load_checkpoint(codebook, "codebook"), out, seed, _say("codes"))}


def _say(what: str) -> Callable[[str], None]:
    """Log how far an extraction is, every hundredth item."""
    done = 0

    def tell(clip_id: str) -> None:
        nonlocal done
        done += 1
        if done % 100 == 0:
            log.info("%s: %d items, now %s", what, done, clip_id)

    return tell
