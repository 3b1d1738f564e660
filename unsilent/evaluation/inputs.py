"""Finds the files of an evaluation: folders, pairs of samples and clips, labels, settings, content keys."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from unsilent.checkpoints import catalog
from unsilent.checkpoints.folders import SHIPPED, models_folder, read_config
from unsilent.errors import CheckpointError, DataError, ParameterError
from unsilent.evaluation.ground_truth import Labels, read_labels, read_manifest_labels
from unsilent.evaluation.sounds import ClipNames, Sound, find_sounds, take_number
from unsilent.files import read_json

KINDS = ("vggishish", "melception", "listener")  # kinds of classifiers
ABOUT = "samples.json"  # file with the settings of a generated folder
ABOUT_KEYS = ("model", "seed", "top_k", "temperature")
SETTING = re.compile(r"[\W_]*(top[-_]k|[A-Za-z]+)=(\d+(?:\.\d+)?)")  # setting in the name of a folder


@dataclass(frozen=True)
class Folder:
    """Sounds of one system, or the reference.

    Attributes:
        name: name in reports.
        path: path of the folder.
        sounds: sounds sorted by clip and sample number.
        clips: reference clip of each sound; None for an unpaired sound. In the reference, the sounds' own names.
        settings: settings from `samples.json` or from the folder's name.
    """

    name: str
    path: Path
    sounds: list[Sound]
    clips: list[str | None]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """Files to evaluate.

    Attributes:
        folders: the reference, then the generated folders.
        labels: labels of the reference clips.
    """

    folders: list[Folder]
    labels: Labels

    @cached_property
    def keys(self) -> dict[Sound, bytes]:
        """Content key of each sound; the first use reads all files."""
        return {sound: sound.content_key() for folder in self.folders for sound in folder.sounds}


def find_classifier(name: str | None) -> Path:
    """Checkpoint folder of a classifier. Arguments and errors: see `classifier.load_classifier`."""
    if name is None:
        raise ParameterError(
            "the metrics need a classifier: give --classifier with the checkpoint folder of a VGGish-ish or Melception that was trained on "
            "such sounds, or melception, the published one for VGGSound."
        )
    folder = _classifier_folder(name)
    if (kind := read_config(folder)["kind"]) not in KINDS:
        raise CheckpointError(f"{folder} is a {kind}, but a classifier must be a {' or a '.join(KINDS)}.")
    return folder


def _classifier_folder(name: str) -> Path:
    for place in (SHIPPED / name, models_folder() / name, Path(name)):
        for folder in (place, place / "classifier"):
            if os.path.exists(folder / "config.json"):
                return folder
        if os.path.exists(place / "bundle.json"):
            raise CheckpointError(f"the model {name!r} has no classifier; give a checkpoint of a {' or a '.join(KINDS)}.")
    if name in catalog.names() and catalog.find(name).kind in KINDS:
        raise CheckpointError(f"the classifier {name!r} is not installed; fetch it with: unsilent models fetch {name}.")
    raise CheckpointError(f"there is no classifier {name!r}: neither a checkpoint folder nor the name of a published {' or '.join(KINDS)}.")


def find_inputs(
    reference: Path, generated: Sequence[Path], labels: str | None = None, manifest: Path | None = None, split: str | None = None
) -> Inputs:
    """Find the sounds, their pairs and the labels of an evaluation.

    Args:
        reference: folder of real sounds; the name of a clip is its path without suffix.
        generated: folders of any systems; `ClipNames.clip_of` pairs their files with clips.
        labels: see `read_labels`.
        manifest: replaces `labels`, see `read_manifest_labels`.
        split: split of the manifest; real sounds of other splits are left out.

    Raises:
        ParameterError: if a folder has no sounds or is given twice, there is nothing to evaluate, both `labels` and `manifest` are given,
            or a split is given without a manifest.
        DataError: if labels or `samples.json` cannot be read.
    """
    if labels and manifest:
        raise ParameterError(f"labels are given twice, by {labels} and {manifest}; leave out one.")
    if split and not manifest:
        raise ParameterError(f"the split {split!r} needs a manifest; give one with --manifest.")
    if not generated and not labels and not manifest:
        raise ParameterError("there is nothing to evaluate: give folders with --generated, or labels to test the classifier.")
    real = find_sounds(reference)
    names, clip_labels = [sound.name for sound in real], {}
    if manifest:
        clip_labels, names = read_manifest_labels(manifest, names, split)
    elif labels:
        clip_labels = read_labels(labels, names)
    kept = set(names)
    folders = [Folder("reference", reference, [sound for sound in real if sound.name in kept], list(names), {})]
    clip_names = ClipNames(names)
    for path, name in zip(generated, _distinct_names(generated), strict=True):
        pairs = [(clip_names.clip_of(sound.name), sound) for sound in find_sounds(path)]
        pairs.sort(key=lambda pair: (pair[0] or pair[1].name, take_number(pair[1].name), pair[1].name))
        folders.append(Folder(name, path, [sound for _, sound in pairs], [clip for clip, _ in pairs], _settings(path)))
    return Inputs(folders, clip_labels)


def _distinct_names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that are all different."""
    parts = [Path(os.path.abspath(path)).parts for path in folders]
    for length in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-length:]) for part in parts]
        if len({*names, "reference"}) == len(names) + 1:
            return names
    if folders:
        raise ParameterError(f"the folder {folders[0]} is given more than once; give each of the generated folders once.")
    return []


def _settings(folder: Path) -> dict[str, Any]:
    """Settings from `samples.json`, else from the folder's name, such as `top-k=64`."""
    path = folder / ABOUT
    if not path.exists():
        return {name.replace("-", "_"): float(value) for name, value in SETTING.findall(os.path.basename(os.path.abspath(folder)))}
    about = read_json(path, DataError)
    if not isinstance(about, dict):
        raise DataError(f"{path} must be an object with {', '.join(ABOUT_KEYS)}.")
    return {key: about[key] for key in ABOUT_KEYS if isinstance(about.get(key), str | int | float)}
