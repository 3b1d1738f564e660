"""Reads the containers in which the authors published their weights, and executes nothing of what they hold.

Lightning checkpoints inside `.tar.gz` archives with their YAML, training wrappers with an optimizer, bare state dicts, pickled YAML.
"""

import gzip
import pickle
import re
import shutil
import tarfile
import warnings
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from typing import Any

import torch
import yaml
from torch import Tensor

from unsilent.errors import CheckpointError

# Packages whose objects the authors' trainer left beside the weights: bookkeeping, replaced by something that does nothing.
_BOOKKEEPING = re.compile(r"(pytorch_lightning|numpy|omegaconf|argparse|pathlib|collections|datetime|typing|train)\.")
_LARGEST_SETTINGS = 1 << 20  # bytes; the released ones have a few thousand
_WRAPPERS = ("state_dict", "model")  # what trainers call the weights: Lightning's, and the classifiers' own


@dataclass(frozen=True)
class Container:
    """What a published file holds.

    Attributes:
        path: where it was read from.
        stem: name of the file, or of the training's folder that it lies in, without suffixes; the catalog may know it.
        weights: as published, names and all; read from disk when touched where the format allows it.
        settings_path: YAML that lies beside them; None if there is none.
    """

    path: Path
    stem: str
    weights: dict[str, Tensor]
    settings_path: Path | None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What the YAML says; empty if there is none. Errors as of `read_settings`."""
        return read_settings(self.settings_path) if self.settings_path else {}


def read_container(path: Path, scratch: Path) -> Container:
    """Read weights from any published container.

    Args:
        path: archive, checkpoint file, or the folder that an archive was unpacked to.
        scratch: an empty folder for what comes out of an archive; it must live as long as the weights are used.

    Raises:
        CheckpointError: if the file is missing, cut off, no container of weights, reaches outside its folder, or holds more than weights.
    """
    path = path.resolve()
    try:
        if not path.exists():
            raise CheckpointError(f"{path} does not exist.")
        if path.is_dir():
            checkpoint, settings = _find_unpacked(path)
        elif _is_archive(path):
            checkpoint, settings = _unpack(path, scratch)
        else:
            checkpoint, settings = path, _beside(path)
        if not checkpoint.is_relative_to(scratch):  # an archive has a checksum over all of it
            _check_sums(checkpoint)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from None
    return Container(path, _stem(path), read_weights(checkpoint), settings)


def _stem(path: Path) -> str:
    if path.is_dir():
        return path.name
    if path.suffix == ".ckpt" and path.parent.name == "checkpoints":
        return path.parent.parent.name
    return re.sub(r"(\.tar)?\.\w+$", "", path.name)


def _check_sums(path: Path) -> None:
    """Hold every part of a checkpoint to its checksum, which mapping it from disk would not."""
    try:
        with zipfile.ZipFile(path) as parts:
            damaged = parts.testzip()
    except (zipfile.BadZipFile, EOFError, zlib.error):
        return  # no zip file, or one so damaged that reading it says so
    if damaged:
        raise CheckpointError(f"{path} is damaged: its part {damaged[:80]!r} does not fit its checksum.")


def _is_archive(path: Path) -> bool:
    return _is_compressed(path) or path.suffix == ".tar"


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _find_unpacked(folder: Path) -> tuple[Path, Path | None]:
    checkpoints = sorted(folder.glob("checkpoints/*.ckpt"), key=_preference)
    if not checkpoints:
        raise CheckpointError(f"{folder} has no checkpoints/*.ckpt in it.")
    return checkpoints[-1], max(filter(_is_settings, folder.glob("configs/*")), default=None)


def _is_settings(path: PurePath) -> bool:
    """Whether a name is that of the trainer's settings; what a Mac adds to archives begins with a dot."""
    return path.name.endswith("-project.yaml") and not path.name.startswith(".")


def _beside(path: Path) -> Path | None:
    """Settings of a lone file: those of the released folder that it lies in, or the vocoder's arguments."""
    if path.suffix == ".ckpt":
        return max(filter(_is_settings, path.parent.parent.glob("configs/*")), default=None)
    arguments = path.parent / "args.yml"
    return arguments if arguments.is_file() else None


def _preference(path: PurePath) -> tuple[bool, str]:
    """The released scripts take `last.ckpt`, else the last by name."""
    return path.name == "last.ckpt", path.name


def _unpack(path: Path, scratch: Path) -> tuple[Path, Path | None]:
    """Take the preferred checkpoint and its settings out of an archive, in one pass and into `scratch` only."""
    checkpoint = settings = None
    try:
        with gzip.open(path) if _is_compressed(path) else path.open("rb") as content:
            with tarfile.open(fileobj=content, mode="r|") as archive:
                for member in archive:
                    name = _safe_name(path, member)
                    if not member.isfile() or name.name.startswith("."):
                        continue  # a link's target is a member itself; nothing else is wanted, and nothing is ever made
                    if name.suffix == ".ckpt" and (checkpoint is None or _preference(name) > _preference(checkpoint)):
                        if checkpoint:
                            checkpoint.unlink()
                        checkpoint = _extract(path, archive, member, scratch / name.name)
                    elif _is_settings(name) and member.size <= _LARGEST_SETTINGS:
                        settings = max(filter(None, [settings, _extract(path, archive, member, scratch / name.name)]))
            while content.read(1 << 20):  # to the end, where the checksum is
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CheckpointError(f"{path} is cut off or damaged: {error}.") from None
    if checkpoint is None:
        raise CheckpointError(f"{path} is an archive without a checkpoint (*.ckpt) in it.")
    return checkpoint, settings


def _safe_name(path: Path, member: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise CheckpointError(f"{path} wants to write outside its folder ({member.name[:80]!r}); it was not unpacked.")
    return name


def _extract(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> Path:
    free = shutil.disk_usage(target.parent).free
    if member.size > free:
        raise CheckpointError(f"{target.name} of {path} needs {member.size / 1e9:.2f} GB in {target.parent}, {free / 1e9:.2f} GB are free.")
    source = archive.extractfile(member)
    assert source is not None, "only regular files are extracted"
    try:
        with target.open("wb") as file:
            shutil.copyfileobj(source, file, 1 << 20)
    except OSError as error:
        if error.errno is None:  # damage of what is read, which is named elsewhere
            raise
        raise CheckpointError(f"cannot unpack {target.name} of {path} into {target.parent}: {error.strerror}.") from None
    return target


class _Inert(dict):
    """Stands for an object of the authors' trainer: takes anything, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a file that `torch.save` wrote, without whatever a trainer wrapped around them.

    Raises:
        CheckpointError: if the file is cut off, is no such file, or holds anything but weights and a trainer's bookkeeping.
    """
    names: list[str] = []
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged bytes fail in as many ways as there are
        raise _unreadable(path) from None
    while True:
        for name in names:
            if not _BOOKKEEPING.match(name):
                raise CheckpointError(f"{path} holds {name[:80]!r}, neither a weight nor a trainer's bookkeeping; it was not loaded.")
        try:
            with torch.serialization.safe_globals([(_Inert, name) for name in names]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about the age of the file
                return _unwrap(torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip), path)
        except CheckpointError:
            raise
        except Exception as error:
            name = _foreign_name(error)  # files of before 2020 name them one at a time
            if name is None or name in names:
                raise _unreadable(path) from None
            names = [*names, name]


def _foreign_name(error: Exception) -> str | None:
    found = re.search(r"GLOBAL (\S+)|Unsupported (?:global|class) (\S+)", str(error))
    return (found[1] or found[2]) if isinstance(error, pickle.UnpicklingError) and found else None


def _unreadable(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is cut off, damaged or no file of weights; read are .tar.gz, .tar, .ckpt, .pt and .pth of PyTorch.")


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
            raise CheckpointError(f"{path} holds {str(name)[:80]!r}, which is a {type(value).__name__} where a weight is expected.")
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            raise CheckpointError(f"{path} holds {name[:80]!r}, which is no plain array of numbers.")
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
        with path.open(encoding="utf-8") as file:
            # the base loader is SafeLoader: tags only ever give plain data
            settings = yaml.load(file.read(_LARGEST_SETTINGS), Loader=_PlainLoader)
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"the settings {path.name} cannot be read: {_first_line(error)}.") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path.name} does not hold settings, which are a YAML mapping.")
    return settings
