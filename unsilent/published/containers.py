"""Reads the authors' weight files without executing anything in them.

These are Lightning checkpoints in `.tar.gz` archives with their YAML, state dicts with an optimizer, bare state dicts, and pickled YAML.
"""

import gzip
import io
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

# Packages of objects that the authors' trainer stored with the weights; such objects are replaced with `_Inert`.
_BOOKKEEPING = re.compile(r"(pytorch_lightning|numpy|omegaconf|argparse|pathlib|collections|datetime|typing|train)\.")
_LARGEST_SETTINGS = 1 << 20  # bytes; released files have a few thousand
_MOST_COMPRESSED, _LEAST_CONTENT = 50, 1 << 28  # limit of unpacked content: this factor of the archive's size, but at least this many bytes
_EXTENDED = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_MOST_FOREIGN = 40  # largest number of class names of a trainer's objects; released files have a dozen
_WRAPPERS = ("state_dict", "model")  # keys of the weights in checkpoints of Lightning and of the classifiers' trainer


@dataclass(frozen=True)
class Container:
    """Content of a published file.

    Attributes:
        path: path of the file.
        stem: name of the file or of the training's folder, without suffixes; see `catalog.find_by_stem`.
        weights: weights with their published names; mapped from disk if the format allows it.
        settings_path: YAML file beside the weights; None if there is none.
    """

    path: Path
    stem: str
    weights: dict[str, Tensor]
    settings_path: Path | None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Content of the YAML; empty if there is none. Errors: see `read_settings`."""
        return read_settings(self.settings_path) if self.settings_path else {}


def read_container(path: Path, scratch: Path) -> Container:
    """Read weights from any published file.

    Args:
        path: archive, checkpoint file, or the folder of an unpacked archive.
        scratch: empty folder for extracted files; it must exist while the weights are used.

    Raises:
        CheckpointError: if the file is missing or damaged, has no weights, would extract outside its folder, or has unknown objects.
    """
    path = path.resolve()
    try:
        if not path.exists():
            raise CheckpointError(f"{path} does not exist.")
        if not path.is_dir() and not path.is_file():
            raise CheckpointError(f"{path} is a pipe or device; give a file.")
        if path.is_dir():
            checkpoint, settings = _find_unpacked(path)
        elif _is_archive(path):
            checkpoint, settings = _unpack(path, scratch)
        else:
            checkpoint, settings = path, _beside(path)
        if not checkpoint.is_relative_to(scratch):  # gzip has its own checksum
            check_sums(checkpoint)
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror or error}.") from None
    return Container(path, _stem(path), read_weights(checkpoint), settings)


def _stem(path: Path) -> str:
    if path.is_dir():
        return path.name
    if path.suffix == ".ckpt" and path.parent.name == "checkpoints":
        return path.parent.parent.name
    return re.sub(r"(\.tar)?\.\w+$", "", path.name)


def check_sums(path: Path) -> None:
    """Verify the checksum of every part of a file written by `torch.save`, because mapping it from disk does not.

    Raises:
        CheckpointError: if a part is damaged, or compressed, which `torch.save` never does and which mapping would read as wrong weights.
    """
    try:
        with zipfile.ZipFile(path) as parts:
            compressed = next((part.filename for part in parts.infolist() if part.compress_type != zipfile.ZIP_STORED), None)
            damaged = parts.testzip() if compressed is None else None
    except (zipfile.BadZipFile, EOFError, zlib.error, NotImplementedError, ValueError, RuntimeError):
        return  # not a zip file, or so damaged that reading it fails
    if compressed is not None:
        raise CheckpointError(f"{path} is not as it was saved: its part {compressed[:80]!r} is compressed.")
    if damaged:
        raise CheckpointError(f"{path} is damaged: its part {damaged[:80]!r} does not match its checksum.")


def _is_archive(path: Path) -> bool:
    return _is_compressed(path) or path.suffix == ".tar"


def _is_compressed(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"\x1f\x8b"


def _find_unpacked(folder: Path) -> tuple[Path, Path | None]:
    checkpoints = sorted(folder.glob("checkpoints/*.ckpt"), key=_preference)
    if not checkpoints:
        raise CheckpointError(f"{folder} has no checkpoints/*.ckpt.")
    return checkpoints[-1], max(filter(_is_settings, folder.glob("configs/*")), default=None)


def _is_settings(path: PurePath) -> bool:
    """Whether a file has the trainer's settings; macOS adds files that begin with a dot to archives."""
    return path.name.endswith("-project.yaml") and not path.name.startswith(".")


def _beside(path: Path) -> Path | None:
    """Settings of a single file: the YAML of its training's folder, or the vocoder's arguments."""
    if path.suffix == ".ckpt":
        return max(filter(_is_settings, path.parent.parent.glob("configs/*")), default=None)
    arguments = path.parent / "args.yml"
    return arguments if arguments.is_file() else None


def _preference(path: PurePath) -> tuple[bool, str]:
    """Sort key: like the released scripts, prefer `last.ckpt`, else the last name."""
    return path.name == "last.ckpt", path.name


def _unpack(path: Path, scratch: Path) -> tuple[Path, Path | None]:
    """Extract the preferred checkpoint and its settings into `scratch`, in one pass."""
    checkpoint = settings = None
    try:
        with gzip.open(path) if _is_compressed(path) else path.open("rb") as content:
            content = _Bounded(content, path)
            with tarfile.open(fileobj=content, mode="r|", tarinfo=_Member) as archive:
                for member in archive:
                    name = _safe_name(path, member)
                    if member.issparse():
                        raise CheckpointError(f"{path} has a file with holes ({member.name[:80]!r}); it was not unpacked.")
                    if not member.isfile() or name.name.startswith("."):
                        continue  # the target of a link is a member itself; devices and hidden files are ignored
                    if name.suffix == ".ckpt" and (checkpoint is None or _preference(name) > _preference(checkpoint)):
                        if checkpoint:
                            checkpoint.unlink()
                        checkpoint = _extract(path, archive, member, scratch / name.name)
                    elif _is_settings(name) and member.size <= _LARGEST_SETTINGS:
                        settings = max(filter(None, [settings, _extract(path, archive, member, scratch / name.name)]))
            while content.read(1 << 20):  # read to the end, because gzip verifies its checksum there
                pass
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise CheckpointError(f"{path} is cut off or damaged: {error}.") from None
    if checkpoint is None:
        raise CheckpointError(f"{path} is an archive without a checkpoint (*.ckpt).")
    return checkpoint, settings


class _Bounded:
    """Limits the bytes read from an archive, because weights are hardly compressible."""

    def __init__(self, file: gzip.GzipFile | io.BufferedReader, path: Path) -> None:
        self._file, self._path, self._left = file, path, max(_LEAST_CONTENT, _MOST_COMPRESSED * path.stat().st_size)

    def read(self, n_bytes: int) -> bytes:
        data = self._file.read(n_bytes)
        self._left -= len(data)
        if self._left < 0:
            raise CheckpointError(
                f"{self._path} unpacks to more than {_MOST_COMPRESSED} times its size; it is damaged or not a file of weights."
            )
        return data


class _Member(tarfile.TarInfo):
    """An archive member that refuses long extended headers, because tarfile reads them into memory."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENDED and self.size > _LARGEST_SETTINGS:
            raise tarfile.ReadError(f"an extended header of {self.size} bytes")
        return super()._proc_member(archive)


def _safe_name(path: Path, member: tarfile.TarInfo) -> PurePosixPath:
    name = PurePosixPath(member.name)
    if name.is_absolute() or ".." in name.parts or "\\" in member.name:
        raise CheckpointError(f"{path} has a member outside its folder ({member.name[:80]!r}); it was not unpacked.")
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
        if error.errno is None:  # the archive is damaged, which the caller reports
            raise
        raise CheckpointError(f"cannot unpack {target.name} of {path} into {target.parent}: {error.strerror}.") from None
    return target


class _Inert(dict):
    """Replaces objects of the authors' trainer; accepts and ignores any arguments and state."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a file written by `torch.save`, without the trainer's other entries.

    Raises:
        CheckpointError: if the file is damaged, is not such a file, or has objects other than weights and a trainer's bookkeeping.
    """
    names: list[str] = []
    try:
        is_zip = zipfile.is_zipfile(path)
        if is_zip:
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # damaged bytes raise errors of any class
        raise _unreadable(path) from None
    while True:
        if len(names) > _MOST_FOREIGN:
            raise CheckpointError(f"{path} holds more than {_MOST_FOREIGN} kinds of objects besides weights; it was not loaded.")
        for name in names:
            if not _BOOKKEEPING.match(name):
                raise CheckpointError(f"{path} holds {name[:80]!r}, neither a weight nor a trainer's bookkeeping; it was not loaded.")
        try:
            with torch.serialization.safe_globals([(_Inert, name) for name in names]), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about old formats
                return _unwrap(torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip), path)
        except CheckpointError:
            raise
        except Exception as error:
            name = _foreign_name(error)  # files from before 2020 reveal one name per attempt
            if name is None or name in names:
                raise _unreadable(path) from None
            names = [*names, name]


def _foreign_name(error: Exception) -> str | None:
    found = re.search(r"GLOBAL (\S+)|Unsupported (?:global|class) (\S+)", str(error))
    return (found[1] or found[2]) if isinstance(error, pickle.UnpicklingError) and found else None


def _unreadable(path: Path) -> CheckpointError:
    return CheckpointError(f"{path} is damaged or not a file of weights; supported are .tar.gz, .tar, .ckpt, .pt and .pth of PyTorch.")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")


def _unwrap(loaded: Any, path: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not loaded:
        raise CheckpointError(f"{path} has no dictionary of weights.")
    for name, value in loaded.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path} holds {str(name)[:80]!r}, which is a {type(value).__name__} where a weight is expected.")
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            raise CheckpointError(f"{path} holds {name[:80]!r}, which is not a dense array of real numbers.")
    return dict(loaded)


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML loader that reads tagged Python objects as plain data."""


def _plain(loader: _PlainLoader, suffix: str, node: yaml.Node) -> Any:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    if isinstance(node, yaml.SequenceNode):
        return loader.construct_sequence(node, deep=True)
    return loader.construct_scalar(node)


_PlainLoader.add_multi_constructor("tag:yaml.org,2002:python/", _plain)


def read_settings(path: Path) -> dict[str, Any]:
    """Content of a project's YAML or of the vocoder's `args.yml` (a pickled argparse namespace) as plain data; nothing is executed.

    Raises:
        CheckpointError: if the file is not YAML, or not a mapping.
    """
    try:
        with path.open(encoding="utf-8") as file:
            settings = yaml.load(file.read(_LARGEST_SETTINGS), Loader=_PlainLoader)  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"the settings {path.name} cannot be read: {_first_line(error)}.") from None
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path.name} is not a YAML mapping of settings.")
    return settings
