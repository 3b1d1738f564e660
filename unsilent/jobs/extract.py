"""Extraction of shards in one or several processes. An interrupted job resumes; shards list the files that were left out."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from unsilent import presets
from unsilent.checkpoints.folders import find_part
from unsilent.choices import FeatureDtype, Loudness, SoundShard
from unsilent.data.extract import (
    CODE_VARIANTS,
    CodeExtractor,
    Extracted,
    Extractor,
    FeatureExtractor,
    File,
    MotionExtractor,
    SoundExtractor,
    Stored,
    group_by_file,
    stored_sounds,
)
from unsilent.data.manifest import read_manifest
from unsilent.data.shards import Shard, ShardWriter
from unsilent.errors import ParameterError
from unsilent.jobs.parallel import Failed, Parallel, map_ordered

log = logging.getLogger(__name__)


def extract_shards(
    table: Path | None,
    out: Path,
    codebook: Path | None = None,
    *,
    preset_name: str | None = None,
    sound: SoundShard | None = None,
    loudness: Loudness | None = None,
    dtype: FeatureDtype | None = None,
    variants: int | None = None,
    seed: int = 0,
    parallel: Parallel = Parallel(),
    redo: bool = False,
) -> list[Shard]:
    """Write the shards of a manifest, or with a codebook, the shard `codes` of the sounds that were extracted into `out`.

    Args:
        table: manifest; None with a codebook.
        out: folder of shards.
        codebook: checkpoint folder of the codebook, or a model that has it; excludes the next four arguments.
        preset_name: preset that determines the clip, the backbone, and the number of features; None takes `everyday`. Without a backbone,
            there is no shard `features`; without motion in the condition, no shard `motion`.
        sound: `waveforms` (the default), or `mels`, which are smaller but cannot train vocoders.
        loudness: see `SoundExtractor`; None takes `normalise`.
        dtype: dtype of features, see `FeatureExtractor`; None takes `float16`.
        variants: see `CodeExtractor`; only with a codebook. None takes `CODE_VARIANTS`.
        seed: seed of random crops of images, or of variants.
        parallel: where the job runs.
        redo: replace shards of other material or settings.

    Returns:
        The shards; their indexes list omitted clips.

    Raises:
        ParameterError: for an unknown preset, or arguments that exclude each other; the message names command-line options.
        DataError: for an unusable manifest, missing sounds, or shards of other material or settings.
        CheckpointError: if the weights of the backbone or the codebook are missing.
    """
    if codebook is not None:
        options = {"--preset": preset_name, "--sound": sound, "--loudness": loudness, "--features": dtype}
        if unused := table or next((name for name, value in options.items() if value), None):
            raise ParameterError(f"with --codebook, codes are made from the sounds in {out}; leave out {unused}.")
        sounds, folder = stored_sounds(out), find_part("codebook", codebook)
        return [extract(CodeExtractor(out, folder, seed, variants or CODE_VARIANTS), sounds, out, parallel, redo)]
    if variants:
        raise ParameterError("--variants needs --codebook; give one, or leave it out.")
    if table is None:
        raise ParameterError("give a manifest to extract, or --codebook to encode sounds that were extracted before.")
    root, rows = read_manifest(table)
    preset = presets.get(preset_name or "everyday")
    sounds = SoundExtractor(root, preset.clip, sound or "waveforms", loudness or "normalise")
    shards = [extract(sounds, group_by_file(rows, "sound", "clip"), out, parallel, redo)]
    if preset.backbone:
        condition = preset.sampler.condition
        one_each = condition.by_column or condition.n_features == preset.clip.columns
        per_column = 1 if one_each else preset.clip.column_features
        features = FeatureExtractor(root, preset.clip, preset.backbone, seed, per_column, dtype or "float16")
        shards.append(extract(features, group_by_file(rows, "image", "clip"), out, parallel, redo))
        if condition.motion:
            shards.append(extract(MotionExtractor(root, preset.clip), group_by_file(rows, "clip"), out, parallel, redo))
    return shards


def extract(extractor: Extractor, items: Sequence[File | Stored], out: Path, parallel: Parallel, redo: bool) -> Shard:
    """Write one shard, or its missing part; a finished shard of the same material and settings is kept.

    On machines of the same kind, the bytes do not depend on the number of workers or on interruptions.

    Args:
        extractor: the extractor.
        items: the material.
        out: folder of shards.
        parallel: where the job runs.
        redo: replace a shard of other material or settings.

    Returns:
        The shard; its index lists omitted clips.

    Raises:
        DataError: if the shard has other material or settings, or another process is writing it.
    """
    material = hashlib.sha256()
    for item in items:
        material.update(repr(item).encode())
    name, root = extractor.shard, f"{getattr(extractor, 'root', '')}/"
    with ShardWriter(out, name, {**extractor.settings(), "material": material.hexdigest()}, redo) as writer:
        if writer.is_finished:
            log.info("%s: already extracted with the same material and settings; kept", name)
        else:
            if writer.n_batches:
                log.info("%s: resuming after %d of %d items", name, writer.n_batches, len(items))
            for item, result in map_ordered(extractor, items[writer.n_batches :], parallel):
                if isinstance(result, Failed):
                    result = Extracted([], [(clip_id, result.reason) for clip_id in item.names])
                writer.add(result.items, [(clip_id, why.replace(root, "")) for clip_id, why in result.left_out])
                if writer.n_batches % 100 == 0:
                    log.info("%s: %d of %d items, now %s", name, writer.n_batches, len(items), item)
    return Shard(out, name)
