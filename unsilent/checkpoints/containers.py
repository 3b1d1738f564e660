"""Reads the containers in which the authors published their weights, and executes nothing of what they hold.

Lightning checkpoints inside `.tar.gz` archives with their YAML, training wrappers with an optimizer, bare state dicts, pickled YAML.
"""

import pickle
import re
import shutil
import tarfile
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
import yaml
from torch import Tensor

from unsilent.errors import CheckpointError

# Packages whose objects the authors' trainer left beside the weights: bookkeeping, replaced by something that does nothing.
_BOOKKEEPING = re.compile(r"(pytorch_lightning|numpy|omegaconf|argparse|pathlib|train)\.")
_WRAPPERS = ("state_dict", "model")  # what trainers call the weights: Lightning's, and the classifiers' own


@dataclass(frozen=True)
class Container:
    """What a published file holds.

    Attributes:
        stem: name of the file without its suffixes, by which the catalog may know it.
        weights: as published, names and all; read from disk when touched where the format allows it.
        settings: what the YAML beside them says; empty if there is none.
    """

    stem: str
    weights: dict[str, Tensor]
    settings: dict[str, Any]


def read_container(path: Path, scratch: Path) -> Container:
    """Read weights from any published container.

    Args:
        path: archive, checkpoint file, or the folder that an archive was unpacked to.
        scratch: an empty folder for what comes out of an archive; it must live as long as the weights are used.

    Raises:
        CheckpointError: if the file is missing, cut off, no container of weights, reaches outside its folder, or holds more than weights.
    """
    if not path.exists():
        raise CheckpointError(f"{path} does not exist.")
    if path.is_dir():
        checkpoint, settings = _find_unpacked(path)
    elif _is_archive(path):
        checkpoint, settings = _unpack(path, scratch)
    else:
        checkpoint, settings = path, _beside(path)
    return Container(_stem(path), read_weights(checkpoint), read_settings(settings) if settings else {})


def _stem(path: Path) -> str:
    return path.name if path.is_dir() else re.sub(r"(\.tar)?\.\w+$", "", path.name)


def _is_archive(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b" or path.suffix == ".tar"


def _find_unpacked(folder: Path) -> tuple[Path, Path | None]:
    checkpoints = sorted(folder.glob("checkpoints/*.ckpt"), key=_preference)
    if not checkpoints:
        raise CheckpointError(f"{folder} has no checkpoints/*.ckpt in it.")
    return checkpoints[-1], max(folder.glob("configs/*-project.yaml"), default=None)


def _beside(path: Path) -> Path | None:
    """Settings of a lone file: those of the released folder that it lies in, or the vocoder's arguments."""
    found = [*path.parent.parent.glob("configs/*-project.yaml")] if path.suffix == ".ckpt" else [*path.parent.glob("args.yml")]
    return max(found, default=None)


def _preference(name: str | Path) -> tuple[bool, str]:
    """The released scripts take `last.ckpt`, else the last by name."""
    base = PurePosixPath(str(name)).name
    return base == "last.ckpt", base


def _unpack(path: Path, scratch: Path) -> tuple[Path, Path | None]:
    """Take the preferred checkpoint and its settings out of an archive, in one pass and into `scratch` only."""
    checkpoint = settings = None
    try:
        with tarfile.open(path, "r|*") as archive:
            for member in archive:
                _check_member(path, member)
                name = PurePosixPath(member.name)
                if name.suffix == ".ckpt" and (checkpoint is None or _preference(member.name) > _preference(checkpoint.name)):
                    if checkpoint:
                        checkpoint.unlink()
                    checkpoint = _extract(path, archive, member, scratch / name.name)
                elif name.name.endswith("-project.yaml"):
                    settings = _extract(path, archive, member, scratch / name.name)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise CheckpointError(f"{path} cannot be unpacked into {scratch}: {error.strerror}.") from None
        raise CheckpointError(f"{path} is cut off or damaged: {error}.") from None
    if checkpoint is None:
        raise CheckpointError(f"{path} is an archive without a checkpoint (*.ckpt) in it.")
    return checkpoint, settings


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise CheckpointError(f"{path} wants to write outside its folder ({member.name!r}); it was not unpacked.")
    if not (member.isfile() or member.isdir()):
        raise CheckpointError(f"{path} holds {member.name!r}, which is neither a file nor a folder; it was not unpacked.")


def _extract(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> Path:
    free = shutil.disk_usage(target.parent).free
    if member.size > free:
        raise CheckpointError(f"{member.name} of {path} needs {member.size / 1e9:.2f} GB in {target.parent}, {free / 1e9:.2f} GB are free.")
    source = archive.extractfile(member)
    assert source is not None, "only regular files are extracted"
    with target.open("wb") as file:
        shutil.copyfileobj(source, file, 1 << 20)
    return target


class _Inert:
    """Stands for an object of the authors' trainer: takes anything, keeps nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote, without whatever a trainer wrapped around them.

    Raises:
        CheckpointError: if the file is cut off, is no such file, or holds anything but weights and a trainer's bookkeeping.
    """
    try:
        is_zip = zipfile.is_zipfile(path)
        foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path) if is_zip else []
    except Exception as error:  # damaged bytes fail in as many ways as there are
        raise _unreadable(path, error) from None
    for name in foreign:
        if not _BOOKKEEPING.match(name):
            raise CheckpointError(f"{path} holds {name}, which is neither a weight nor a trainer's bookkeeping; it was not loaded.")
    try:
        with torch.serialization.safe_globals([(_Inert, name) for name in foreign]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the age of the file
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except Exception as error:
        raise _unreadable(path, error) from None
    return _unwrap(loaded, path)


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    culprit = re.search(r"GLOBAL (\S+)|Unsupported (?:global|class) (\S+)", str(error))
    if isinstance(error, pickle.UnpicklingError) and culprit:
        return CheckpointError(f"{path} holds {culprit[1] or culprit[2]}, which is no weight; it was not loaded.")
    return CheckpointError(f"{path} is cut off, damaged or no file of weights ({_first_line(error)}).")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not loaded:
        raise CheckpointError(f"{path} holds no dictionary of weights.")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path} holds {name!r}, which is a {type(value).__name__} where a weight is expected.")
    return dict(loaded)


class _PlainLoader(yaml.SafeLoader):
    """YAML in which tags that would make Python objects give the plain data they wrap."""


def _plain(loader: _PlainLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def read_settings(path: Path) -> dict[str, Any]:
    """What a project's YAML or the vocoder's `args.yml` (a pickled argparse namespace) says, as plain data; nothing is executed.

    Raises:
        CheckpointError: if the file is not YAML, or does not hold a mapping.
    """
    try:
        # the base loader is SafeLoader: tags only ever give plain data
        settings = yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} is not YAML: {_first_line(error)}.") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} does not hold settings, which are a YAML mapping.")
    return settings
