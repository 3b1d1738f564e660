"""Shards from material, spread over processes or machines: whatever is stopped goes on, and what is bad is named."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

from unsilent import presets
from unsilent.choices import FeatureDtype
from unsilent.data.extract import CODE_VARIANTS, Codes, Extractor, Features, File, Motion, Piece, Sounds, Stored, files, stored
from unsilent.data.manifest import read_manifest
from unsilent.data.shards import Shard, Writer
from unsilent.jobs.parallel import Failed, Parallel, map_ordered

log = logging.getLogger(__name__)


def extract_material(
    table: Path,
    out: Path,
    preset_name: str,
    sound: str = "waveforms",
    dtype: FeatureDtype = "float16",
    seed: int = 0,
    parallel: Parallel = Parallel(),
    redo: bool = False,
) -> list[Shard]:
    """Write the shards of sounds, `features`, and `motion` for a manifest.

    Args:
        table: manifest; its rows' paths are relative to the folder it was made from.
        out: folder of shards.
        preset_name: gives the clip, the backbone, and how many features a clip needs. A preset that looks at nothing gets no features, one
            that is told of no motion gets none.
        sound: `waveforms`, or the smaller `mels`, which vocoders cannot be trained from.
        dtype: of features; see `Features`.
        seed: of the random views of pictures.
        parallel: where to run.
        redo: replace shards that were made otherwise.

    Raises:
        DataError: for a manifest that cannot be read, or shards made otherwise.
        ParameterError: for an unknown preset.
        CheckpointError: if the weights of the backbone are not here.
    """
    root, rows = read_manifest(table)
    preset = presets.get(preset_name)
    shards = [extract(Sounds(root, preset.clip, sound), files(rows, "sound", "clip"), out, parallel, redo)]
    if preset.backbone:
        condition = preset.sampler.condition
        one_each = condition.kind == "columns" or condition.n_features == preset.clip.columns
        features = Features(root, preset.clip, preset.backbone, seed, 1 if one_each else preset.clip.column_features, dtype)
        shards.append(extract(features, files(rows, "image", "clip"), out, parallel, redo))
        if condition.motion:
            shards.append(extract(Motion(root, preset.clip), files(rows, "clip"), out, parallel, redo))
    return shards


def extract_codes(
    codebook: Path, out: Path, seed: int = 0, variants: int = CODE_VARIANTS, parallel: Parallel = Parallel(), redo: bool = False
) -> list[Shard]:
    """Write the shard `codes` of the sounds in a folder of shards, with the codebook of a checkpoint folder; see `data.extract.Codes`.

    Raises:
        DataError: if there are no sounds, or codes made otherwise.
        CheckpointError: if there is no codebook.
    """
    return [extract(Codes(out, codebook, seed, variants), stored(out), out, parallel, redo)]


def extract(extractor: Extractor, items: Sequence[File | Stored], out: Path, parallel: Parallel, redo: bool) -> Shard:
    """Write one shard, or what is missing of it; one that is whole and made of the same in the same way stays.

    The bytes depend neither on how the work is spread nor on how often it was stopped, on machines of one kind.

    Args:
        extractor: what to do.
        items: what to do it with.
        out: folder of shards.
        parallel: where to run.
        redo: replace what was made otherwise.

    Returns:
        The shard, whose index names what was left out.

    Raises:
        DataError: if the shard was made otherwise, or another process is writing it.
    """
    material = hashlib.sha256()
    for item in items:
        material.update(repr(item).encode())
    name, root = extractor.shard, f"{getattr(extractor, 'root', '')}/"
    with Writer(out, name, {**extractor.recipe(), "material": material.hexdigest()}, redo) as writer:
        if writer.is_whole:
            log.info("%s: made before, of the same and in the same way; kept", name)
        else:
            if writer.n_pieces:
                log.info("%s: going on after %d of %d items", name, writer.n_pieces, len(items))
            for item, piece in map_ordered(extractor, items[writer.n_pieces :], parallel):
                if isinstance(piece, Failed):
                    piece = Piece([], [(clip_id, piece.reason) for clip_id in item.names])
                writer.add(piece.entries, [(clip_id, why.replace(root, "")) for clip_id, why in piece.left_out])
                if writer.n_pieces % 100 == 0:
                    log.info("%s: %d of %d items, now %s", name, writer.n_pieces, len(items), item)
    return Shard(out, name)
