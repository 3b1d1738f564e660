"""Reads the mels and features that the paper's authors released: folders, sizes, and the part of each file that is used."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float16, Float32, Shaped

from unsilent.clip import Clip
from unsilent.data.foreign_arrays import format_shape, read_array
from unsilent.data.layouts import read_vggsound_table
from unsilent.data.rows import FeaturesRow, ItemRow
from unsilent.data.shards import Item, write_shard
from unsilent.errors import DataError, ParameterError

log = logging.getLogger(__name__)

# A released file has 10 s; the clip is its middle.
_FILE_FRAMES = 860
_FILE_FEATURES = 215
_MELS = "melspec_10s_22050hz"
_FEATURES = {  # folders of each backbone and their dimensions; a feature is their concatenation
    "resnet50": {"feature_resnet50_dim2048_21.5fps": 2048},
    "bninception": {"feature_rgb_bninception_dim1024_21.5fps": 1024, "feature_flow_bninception_dim1024_21.5fps": 1024},
}


def read_mel(path: Path, clip: Clip) -> Float32[np.ndarray, "mels frames"]:
    """Read a mel of 10 s and keep its middle.

    Args:
        path: `<clip>_mel.npy`, 80 mel bands x 860 frames in [0, 1].
        clip: determines the length to keep; the paper's 848 frames are frames 6 to 853.

    Returns:
        Values in [0, 1].

    Raises:
        DataError: if the file cannot be read, has another size, or has values outside [0, 1].
        ParameterError: if the clip has other mel settings, or is longer than a file.

    Source:
        Released CropImage. Differs: files of another length are refused, because their middle is not the middle of the features.
    """
    _refuse_other_grid(clip)
    mel = read_array(path)
    if mel.shape != (clip.mels, _FILE_FRAMES):
        raise DataError(f"{path} holds an array of {format_shape(mel.shape)}; a released mel has {clip.mels} x {_FILE_FRAMES}.")
    if not (mel.min() >= 0 and mel.max() <= 1):  # negated so that NaN fails too
        raise DataError(f"{path} reaches from {mel.min():g} to {mel.max():g}; a released mel stays in 0 to 1.")
    start = (_FILE_FRAMES - clip.frames) // 2
    return mel[:, start : start + clip.frames].astype(np.float32)


def read_features(folder: Path, clip_id: str, backbone: str, clip: Clip) -> Float32[np.ndarray, "features dim"]:
    """Read the visual features of the middle of a file.

    Args:
        folder: folder that contains the folders of features; for VAS the folder of the clip's class.
        clip_id: file name without `.pkl`.
        backbone: `resnet50`, or `bninception` (RGB and optical flow, concatenated).
        clip: determines the length to keep; the paper's 212 features are rows 1 to 212 of 215.

    Returns:
        Features of dimension 2048; files are first cut or zero-padded to 215 rows.

    Raises:
        DataError: if a file cannot be read, has another dimension, or contains NaN or infinity, or if RGB and flow differ in length.
        ParameterError: for another backbone, or a clip that has other mel settings or is longer than a file.

    Source:
        Released VGGSound and VAS data sets with CropFeats.
    """
    _refuse_other_grid(clip)
    parts = {folder / name / f"{clip_id}.pkl": width for name, width in _folders(backbone).items()}
    arrays = [_read_part(path, width) for path, width in parts.items()]
    if len({len(array) for array in arrays}) > 1:
        lengths = " and ".join(f"{len(array)} rows in {path.parent.name}" for path, array in zip(parts, arrays, strict=True))
        raise DataError(f"the features of {clip_id} in {folder} do not belong together: {lengths}.")
    whole = np.concatenate(arrays, axis=1, dtype=np.float32)[:_FILE_FEATURES]
    whole = np.pad(whole, ((0, _FILE_FEATURES - len(whole)), (0, 0)))
    start = (_FILE_FEATURES - clip.n_features) // 2
    return whole[start : start + clip.n_features]


def _read_part(path: Path, width: int) -> Shaped[np.ndarray, "rows width"]:
    array = read_array(path)
    if array.ndim != 2 or array.shape[1] != width or not len(array):
        raise DataError(f"{path} holds an array of {format_shape(array.shape)}; released features have some rows x {width}.")
    if bad := int((~np.isfinite(array).all(1)).sum()):
        raise DataError(f"{path} holds NaN or infinity in {bad} of {len(array)} rows.")
    return array


def _folders(backbone: str) -> dict[str, int]:
    if backbone not in _FEATURES:
        raise ParameterError(f"backbone is {backbone!r}, but must be {' or '.join(_FEATURES)}, whose features were released.")
    return _FEATURES[backbone]


def _refuse_other_grid(clip: Clip) -> None:
    """Refuse a grid that differs from that of the released files in more than the length of clips and columns."""
    for name, released in Clip(frames=clip.frames, downsampling=clip.downsampling):
        if getattr(clip, name) != released:
            raise ParameterError(f"{name} of the clip is {getattr(clip, name)}, but released files have {released}.")
    if clip.frames > _FILE_FRAMES or clip.n_features > _FILE_FEATURES:
        raise ParameterError(
            f"a clip of {clip.frames} mel frames and {clip.n_features} features is too long: "
            f"released files have {_FILE_FRAMES} and {_FILE_FEATURES}."
        )


@dataclass(frozen=True)
class ReleasedClip:
    """One clip of a released data set.

    Attributes:
        clip_id: name in the authors' lists: `dog/video_00000` for VAS, `<video>_<start ms>_<end ms>` for VGGSound.
        label: class name; empty if unknown.
        split: name of the list that contains the clip; empty if none does.
        folder: folder that contains the folders of mels and features.
    """

    clip_id: str
    label: str
    split: str
    folder: Path

    @property
    def stem(self) -> str:
        """Common beginning of the clip's file names."""
        return self.clip_id.rpartition("/")[2]

    @property
    def mel_path(self) -> Path:
        """Path of the clip's mel."""
        return self.folder / _MELS / f"{self.stem}_mel.npy"


class ReleasedFolder:
    """All clips of an unpacked data set that have a mel, sorted by name.

    Args:
        root: folder `features` of VAS, which has class folders, or the folder of VGGSound, which has none.
        lists: text file of each split with one clip per line, such as the authors' `vas_train.txt`.
        labels: VGGSound's table of labels, because its folders do not have them.

    Raises:
        DataError: if there are no mels, a list is missing, or the table has none of the clips.
        ParameterError: for a table of labels although there are class folders.

    Source:
        Directories of the released data/vas and data/vggsound.
    """

    def __init__(self, root: Path, lists: Mapping[str, Path] | None = None, labels: Path | None = None) -> None:
        self.root = root
        missing = [path for path in (lists or {}).values() if not path.is_file()]
        if missing:
            raise DataError(f"there is no list of clips {missing[0]}.")
        splits = {line: name for name, path in (lists or {}).items() for line in path.read_text(encoding="utf-8").splitlines()}
        classes = [""] if (root / _MELS).is_dir() else sorted(path.parent.name for path in root.glob(f"*/{_MELS}"))
        self.clips = [clip for label in classes for clip in _clips(root, label, splits)]
        if not self.clips:
            raise DataError(f"there is no mel in {root}; it must contain {_MELS}/*_mel.npy, or class folders that contain it.")
        if labels is not None:
            self._label(labels, classes)

    def _label(self, table: Path, classes: list[str]) -> None:
        if classes != [""]:
            raise ParameterError(f"the folders of {self.root} are classes, so it needs no table of labels; leave out {table}.")
        label_of = {stems[0]: label for _, stems, label, _ in read_vggsound_table(table)}
        self.clips = [replace(clip, label=label_of.get(clip.clip_id, "")) for clip in self.clips]
        if not any(clip.label for clip in self.clips):
            raise DataError(f"{table} names none of the {len(self.clips)} clips in {self.root}.")

    def __len__(self) -> int:
        return len(self.clips)

    def __iter__(self) -> Iterator[ReleasedClip]:
        return iter(self.clips)


def _clips(root: Path, label: str, splits: Mapping[str, str]) -> Iterator[ReleasedClip]:
    folder = root / label
    for path in sorted((folder / _MELS).glob("*_mel.npy")):
        stem = path.name.removesuffix("_mel.npy")
        clip_id = f"{label}/{stem}" if label else stem
        yield ReleasedClip(clip_id, label, splits.get(clip_id, ""), folder)


def write_shards(folder: ReleasedFolder, out: Path, backbone: str, clip: Clip) -> dict[str, int]:
    """Write a released data set as the shards `features` and `mels`.

    Features are float16 `[features, dim]`, all features of the clip. Mels are float16 `[frames, mels]` in [0, 1], with an error of at most
    0.00025 (0.025 dB). A damaged file is logged and left out of its shard only, so items of the two shards must be paired by `clip_id`.

    Args:
        folder: released data set.
        out: folder of shards, created if missing.
        backbone: `resnet50` or `bninception`.
        clip: grid and length of the kept middle part.

    Returns:
        Number of items of each shard.

    Raises:
        DataError: if one of the shards has no item.
        ParameterError: for another backbone, or a clip that `read_mel` or `read_features` refuses.
    """
    _refuse_other_grid(clip)
    dim = sum(_folders(backbone).values())

    def features(item: ReleasedClip) -> Float16[np.ndarray, "features dim"]:
        rows = read_features(item.folder, item.stem, backbone, clip)
        if np.abs(rows).max() > np.finfo(np.float16).max:
            raise DataError(f"the {backbone} features of {item.clip_id} reach {np.abs(rows).max():g}, too much for float16.")
        return rows.astype(np.float16)

    def mels(item: ReleasedClip) -> Float16[np.ndarray, "frames mels"]:
        return read_mel(item.mel_path, clip).T.astype(np.float16)

    common = {"source": "released files", "clip": clip.model_dump()}
    network = {"backbone": backbone, "dim": dim, "rows_per_column": clip.column_features}
    written = {
        "features": write_shard(out, "features", _items(folder, features, FeaturesRow, clip.sample_rate), common | network),
        "mels": write_shard(out, "mels", _items(folder, mels, ItemRow, clip.sample_rate), common),
    }
    for name, count in written.items():
        if not count:
            raise DataError(f"none of {len(folder)} clips in {folder.root} has usable {name}; the log has the reasons.")
    return written


def _items(folder: ReleasedFolder, read: Callable[[ReleasedClip], np.ndarray], row_type: type[ItemRow], sample_rate: int) -> Iterator[Item]:
    for clip in folder:
        try:
            array = read(clip)
        except DataError as error:
            log.warning("left out: %s", error)
            continue
        yield array, row_type(clip.clip_id, "clip", clip.label, clip.split, sample_rate)
