"""The mels and features that the paper's authors give away: folders, sizes, and which part of a file is a clip."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from unsilent.clip import Clip
from unsilent.data.foreign_arrays import read_array, times
from unsilent.data.shards import write_shard
from unsilent.errors import DataError, ParameterError

log = logging.getLogger(__name__)

# A released file is of 10 s; the clip is what lies in its middle.
_FILE_FRAMES = 860
_FILE_FEATURES = 215
_MELS = "melspec_10s_22050hz"
_FEATURES = {  # backbone → its folders, whose numbers stand side by side in a feature, and how many each gives
    "resnet50": {"feature_resnet50_dim2048_21.5fps": 2048},
    "bninception": {"feature_rgb_bninception_dim1024_21.5fps": 1024, "feature_flow_bninception_dim1024_21.5fps": 1024},
}


def read_mel(path: Path, clip: Clip) -> Float[np.ndarray, "mels frames"]:
    """Read a mel of 10 s and keep its middle.

    Args:
        path: `<clip>_mel.npy`, 80 bands x 860 frames in [0, 1].
        clip: how much is kept; the paper's 848 frames are the columns 6 to 853.

    Returns:
        float32 in [0, 1].

    Raises:
        DataError: if the file cannot be read, is of another size, or leaves [0, 1].
        ParameterError: if the clip is of other mels, or longer.

    Source:
        Released CropImage. Differs: files of another length are refused, whose middle would be another moment than that of the features.
    """
    _refuse_other_grid(clip)
    mel = read_array(path)
    if mel.shape != (clip.mels, _FILE_FRAMES):
        raise DataError(f"{path} holds an array of {times(mel.shape)}; a released mel has {clip.mels} x {_FILE_FRAMES}.")
    if not (mel.min() >= 0 and mel.max() <= 1):  # in these words so that NaN fails too
        raise DataError(f"{path} reaches from {mel.min():g} to {mel.max():g}; a released mel stays in 0 to 1.")
    start = (_FILE_FRAMES - clip.frames) // 2
    return mel[:, start : start + clip.frames].astype(np.float32)


def read_features(folder: Path, clip_id: str, backbone: str, clip: Clip) -> Float[np.ndarray, "features dim"]:
    """Read the visual features of a clip's middle.

    Args:
        folder: holds the folders of features; for VAS that of the clip's class.
        clip_id: the files' name without `.pkl`.
        backbone: `resnet50`, or `bninception` (pictures and optical flow side by side).
        clip: how much is kept; the paper's 212 features are the rows 1 to 212 of 215.

    Returns:
        float32, 2048 numbers wide. Files are cut or filled with zeros to 215 rows before.

    Raises:
        DataError: if a file cannot be read, is of another width, or holds NaN or infinity; or if pictures and flow differ in length.
        ParameterError: for another backbone, or a clip of other mels, or a longer one.

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


def _read_part(path: Path, width: int) -> np.ndarray:
    array = read_array(path)
    if array.ndim != 2 or array.shape[1] != width or not len(array):
        raise DataError(f"{path} holds an array of {times(array.shape)}; released features have some rows x {width}.")
    if bad := int((~np.isfinite(array).all(1)).sum()):
        raise DataError(f"{path} holds NaN or infinity in {bad} of {len(array)} rows.")
    return array


def _folders(backbone: str) -> dict[str, int]:
    if backbone not in _FEATURES:
        raise ParameterError(f"features of {backbone!r} were asked for; released are those of {' and '.join(_FEATURES)}.")
    return _FEATURES[backbone]


def _refuse_other_grid(clip: Clip) -> None:
    """Released files have the paper's mels and rate of features; only the length of a clip and its codes may differ."""
    for name, released in Clip(frames=clip.frames, downsampling=clip.downsampling):
        if getattr(clip, name) != released:
            raise ParameterError(f"a clip with {name} {getattr(clip, name)} was asked for; released files have {released}.")
    if clip.frames > _FILE_FRAMES or clip.n_features > _FILE_FEATURES:
        raise ParameterError(
            f"a clip of {clip.frames} mel frames and {clip.n_features} features was asked for; "
            f"released files have {_FILE_FRAMES} and {_FILE_FEATURES}."
        )


@dataclass(frozen=True)
class ReleasedClip:
    """One clip of a released data set.

    Attributes:
        clip_id: as the authors' lists write it: `dog/video_00000` for VAS, `<video>_<start ms>_<end ms>` for VGGSound.
        label: class name; empty where the folder does not tell it.
        split: name of the list that has the clip; empty if none has.
        folder: holds its folders of mels and features.
    """

    clip_id: str
    label: str
    split: str
    folder: Path

    @property
    def stem(self) -> str:
        """What its files' names begin with."""
        return self.clip_id.rpartition("/")[2]

    @property
    def mel_path(self) -> Path:
        """Its mel, for `read_mel`."""
        return self.folder / _MELS / f"{self.stem}_mel.npy"


class ReleasedFolder:
    """All clips of an unpacked data set that have a mel, sorted by name.

    Args:
        root: `features` of VAS, which has one folder a class, or the folder of VGGSound, which has none.
        lists: name of a split → text file with one clip a line, such as the authors' `vas_train.txt`.

    Raises:
        DataError: if there are no mels, or a list is missing.

    Source:
        Directories of the released data/vas and data/vggsound.
    """

    def __init__(self, root: Path, lists: Mapping[str, Path] | None = None) -> None:
        self.root = root
        missing = [path for path in (lists or {}).values() if not path.is_file()]
        if missing:
            raise DataError(f"there is no list of clips {missing[0]}.")
        splits = {line: name for name, path in (lists or {}).items() for line in path.read_text(encoding="utf-8").splitlines()}
        labels = [""] if (root / _MELS).is_dir() else sorted(path.parent.name for path in root.glob(f"*/{_MELS}"))
        self.clips = [clip for label in labels for clip in _clips(root, label, splits)]
        if not self.clips:
            raise DataError(f"there is no mel in {root}; it must hold {_MELS}/*_mel.npy, or folders of classes that hold it.")

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
    """Write the shards `features` and `mels` of a released data set.

    Features are float16 with all of a clip's rows, so that any number can be picked later. Mels are float16 `[frames, mels]` in [0, 1],
    wrong by 0.00025 at most, which is 0.025 dB. A damaged file is logged and left out of its shard, so the two pair by `clip_id`.

    Args:
        folder: what to read.
        out: folder of shards, made if absent.
        backbone: `resnet50` or `bninception`.
        clip: the middle part that is kept.

    Returns:
        How many items each shard has.

    Raises:
        DataError: if nothing could be read for one of them.
        ParameterError: for another backbone or an unfit clip.
    """
    _refuse_other_grid(clip)
    dim = sum(_folders(backbone).values())

    def features(item: ReleasedClip) -> np.ndarray:
        rows = read_features(item.folder, item.stem, backbone, clip)
        if np.abs(rows).max() > np.finfo(np.float16).max:
            raise DataError(f"the {backbone} features of {item.clip_id} reach {np.abs(rows).max():g}, too much for float16.")
        return rows.astype(np.float16)

    def mels(item: ReleasedClip) -> np.ndarray:
        return read_mel(item.mel_path, clip).T.astype(np.float16)

    recipe = {"source": "released files", "clip": clip.model_dump()}
    seen = {**recipe, "backbone": backbone, "dim": dim, "rows_per_column": clip.column_features}
    written = {
        "features": write_shard(out, "features", _items(folder, features, clip.sample_rate), seen),
        "mels": write_shard(out, "mels", _items(folder, mels, clip.sample_rate), recipe),
    }
    for name, count in written.items():
        if not count:
            raise DataError(f"none of {len(folder)} clips in {folder.root} gave {name}; the log says why.")
    return written


def _items(
    folder: ReleasedFolder, read: Callable[[ReleasedClip], np.ndarray], sample_rate: int
) -> Iterator[tuple[np.ndarray, dict[str, Any]]]:
    for item in folder:
        try:
            array = read(item)
        except DataError as error:
            log.warning("left out: %s", error)
            continue
        yield array, {"clip_id": item.clip_id, "kind": "clip", "label": item.label, "split": item.split, "sample_rate": sample_rate}
