"""Shards: arrays of many items, concatenated in one memory-mapped file, with a JSON index. docs/data.md lists them."""

import hashlib
import json
import math
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Shaped, UInt8
from pydantic import TypeAdapter, ValidationError

from unsilent.choices import SoundShard
from unsilent.data.rows import ROW_TYPES, FeaturesRow, ItemRow, Row
from unsilent.errors import DataError
from unsilent.files import try_lock

DTYPES = {"uint8", "int16", "float16", "float32"}  # dtypes of arrays in shards
SAVE_SECONDS = 1.0  # time between syncs, and so the work that may be lost when the process is killed


def mel01_from_stored(stored: Shaped[np.ndarray, "frames mels"]) -> Float32[np.ndarray, "frames mels"]:
    """Mel in [0, 1] of an item of the shard `mels`, which is stored as floating point in [0, 1] or as uint8."""
    return stored.astype(np.float32) / np.float32(255 if stored.dtype == np.uint8 else 1)


def quantise(values: Float[np.ndarray, "*shape"]) -> tuple[UInt8[np.ndarray, "*shape"], float, float]:
    """Quantise an item to uint8; returns the stored values, and `lowest` and `step` of `FeaturesRow`."""
    lowest, highest = float(values.min()), float(values.max())
    step = (highest - lowest) / 255 or 1.0
    return np.round((values - lowest) / step).astype(np.uint8), lowest, step


def dequantise(stored: Shaped[np.ndarray, "*shape"], row: FeaturesRow) -> Float32[np.ndarray, "*shape"]:
    """Features of an item that is stored as floating point or by `quantise`, whose error is at most half a step."""
    values = stored.astype(np.float32)
    return values if stored.dtype != np.uint8 else values * np.float32(row.step) + np.float32(row.lowest)


def sound_shard(folder: Path) -> SoundShard:
    """Name of the shard with a folder's sounds: `waveforms`, or `mels` if there are only mels."""
    return "mels" if (folder / "mels.json").exists() and not (folder / "waveforms.json").exists() else "waveforms"


class Entry(NamedTuple):
    """One item of a shard: its range along the first axis of the array, and its row."""

    start: int
    length: int
    row: ItemRow


@dataclass(frozen=True)
class _Index(Generic[Row]):
    """Content of `NAME.json`."""

    dtype: str
    row_shape: list[int]
    extractor: dict[str, Any]
    sha256: str
    entries: list[tuple[int, int, Row]]
    left_out: list[tuple[str, str]]


@cache
def _index_adapter(name: str) -> TypeAdapter:
    return TypeAdapter(_Index[ROW_TYPES[name]])


class Shard:
    """Read-only view of a shard on disk: `NAME.bin` (array) and `NAME.json` (index, dtype, shape without the first axis).

    Attributes:
        name: a key of `ROW_TYPES`, which determines the type of its rows.
        entries: one for each item.
        left_out: omitted clips with reasons.
        extractor: settings of the extractor that made the items.
        digest: SHA-256 of the index, which contains the SHA-256 of the array.
        array: `[sum of lengths, ...]`.

    Raises:
        DataError: if the shard is missing, damaged, or was written by another version of this package.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name, self._path = name, folder / f"{name}.json"
        if not self._path.exists():
            raise DataError(f"there is no shard {name!r} in {folder}; make it with `unsilent data extract`.")
        try:
            text = self._path.read_bytes()
        except OSError as error:
            raise DataError(f"cannot read {self._path}: {error.strerror}.") from None
        try:
            index = _index_adapter(name).validate_json(text, strict=True)
        except ValidationError as error:
            problem = error.errors()[0]
            where = ".".join(map(str, problem["loc"]))
            raise self._unusable(f"{where}: {problem['msg']}" if where else problem["msg"]) from None
        self.digest = hashlib.sha256(text).hexdigest()
        self.extractor, self.left_out = index.extractor, index.left_out
        self.entries = [Entry(*entry) for entry in index.entries]
        shape = (self._rows_of(index), *index.row_shape)
        path = folder / f"{name}.bin"
        expected = math.prod(shape) * np.dtype(index.dtype).itemsize
        found = path.stat().st_size if path.exists() else 0
        if found != expected:
            raise DataError(f"{path} has {found} bytes instead of the {expected} of its index; extract it again with --redo.")
        # an empty file cannot be mapped
        self.array = np.memmap(path, dtype=index.dtype, mode="r", shape=shape) if expected else np.empty(shape, index.dtype)

    def _rows_of(self, index: _Index) -> int:
        """Length of the array's first axis; checks that entries are contiguous."""
        if index.dtype not in DTYPES:
            raise self._unusable(f"dtype: {index.dtype[:20]!r}")
        if any(not 0 <= length < 1 << 40 for length in index.row_shape):
            raise self._unusable("row_shape: negative or very large")
        total = 0
        for number, entry in enumerate(self.entries):
            if entry.start != total or entry.length < 0:
                raise self._unusable(f"entries.{number}: starts at {entry.start} instead of {total}, or has a negative length")
            total += entry.length
        return total

    def _unusable(self, problem: str) -> DataError:
        return DataError(f"{self._path} is damaged or of another version ({problem}); extract it again with --redo.")

    def setting(self, name: str) -> Any:
        """A setting of the extractor that made the items.

        Raises:
            DataError: if the index does not have the setting.
        """
        if name not in self.extractor:
            raise self._unusable(f"extractor.{name}: Field required")
        return self.extractor[name]

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> Shaped[np.ndarray, "length *row"]:
        entry = self.entries[i]
        return self.array[entry.start : entry.start + entry.length]


Item = tuple[np.ndarray, ItemRow]  # array `[length, ...]`, and its row


class ShardWriter:
    """Writes a shard batch by batch, and resumes after a kill or a power failure.

    The array is written to `NAME.bin.part`; `NAME.journal` has a line for each batch. Both are synced to disk once a second, the array
    first. The next writer truncates incomplete batches and batches without a line in the journal. At the end of a `with` block without an
    exception, the array and then the index are renamed into place. An existing shard is kept until then.

    Args:
        folder: created if missing.
        name: name of the shard.
        extractor: settings of the extractor, and a digest of the material; stored in the index.
        redo: discard an existing shard, finished or not.

    Attributes:
        n_batches: number of written batches.
        is_finished: whether the shard is complete; then no batch may be added.

    Raises:
        DataError: if another process is writing the shard, or it was made with other settings and `redo` is not set.
    """

    def __init__(self, folder: Path, name: str, extractor: dict[str, Any], redo: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._index, self._bin, self._part, self._log = (folder / f"{name}.{end}" for end in ("json", "bin", "bin.part", "journal"))
        self.extractor = json.loads(json.dumps(extractor))  # as JSON reads it back
        self.n_batches = self._n_rows = 0
        self._entries: list[tuple[int, int, dict[str, Any]]] = []
        self._left_out: list[tuple[str, str]] = []
        self._dtype, self._row_shape, self._content = "float32", [], hashlib.sha256()
        self._lines, self._saved = [], time.monotonic()
        self.is_finished = self._index.exists() and not redo
        if self.is_finished:
            self._check_extractor(_read_extractor(self._index), self._bin)
            return
        with ExitStack() as files:
            self._journal: BinaryIO = files.enter_context(self._log.open("ab+"))
            if not try_lock(self._journal.fileno()):
                raise DataError(f"another process is writing {self._bin}; wait for it, or choose another folder.")
            if redo:
                if self._index.exists():
                    _read_extractor(self._index)  # raises for a file that is not a shard
                self._journal.truncate(0)
            elif not self._part.exists() and self._bin.exists():
                if not self._log.stat().st_size:
                    raise DataError(f"{self._bin} exists without an index, so it is not a shard; choose another folder.")
                self._bin.replace(self._part)  # the writer was killed just before it renamed the index
            self._data: BinaryIO = files.enter_context(self._part.open("ab+"))
            self._resume()
            self._files = files.pop_all()

    def _check_extractor(self, found: dict[str, Any], path: Path) -> None:
        if found != self.extractor:
            differing = sorted(key for key in found.keys() | self.extractor.keys() if found.get(key) != self.extractor.get(key))
            raise DataError(f"{path} was made with other {', '.join(differing)}; choose another folder, or replace it with --redo.")

    def _resume(self) -> None:
        """Read the batches that are complete in both files, and truncate the rest."""
        n_valid, n_bytes, n_available = 0, 0, self._part.stat().st_size
        self._journal.seek(0)
        for text in self._journal.read().splitlines(keepends=True):
            if not text.endswith(b"\n"):
                break
            try:
                line = json.loads(text)
                if n_valid and n_bytes + line["bytes"] > n_available:
                    break
                if n_valid:
                    self._record(line)
                    n_bytes += line["bytes"]
                else:
                    self._check_extractor(dict(line["extractor"]), self._part)
            except (ValueError, KeyError, TypeError, RecursionError):
                raise DataError(f"{self._log} is damaged; start over with --redo, or choose another folder.") from None
            n_valid += len(text)
        self._journal.truncate(n_valid)
        if not n_valid:
            self._lines.append({"extractor": self.extractor})
        self._data.truncate(n_bytes)
        self._data.seek(0)
        while block := self._data.read(1 << 24):
            self._content.update(block)

    def add(self, items: Sequence[Item], left_out: Sequence[tuple[str, str]] = ()) -> None:
        """Write one batch.

        Args:
            items: arrays with their rows; all arrays of a shard have the same dtype and row shape.
            left_out: omitted clips with reasons.
        """
        data = b"".join(np.ascontiguousarray(array).tobytes() for array, _ in items)
        layout = {"dtype": str(items[0][0].dtype), "row_shape": items[0][0].shape[1:]} if items else {}
        entries = [(len(array), row.as_json()) for array, row in items]
        line = {"bytes": len(data), **layout, "entries": entries, "left_out": list(left_out)}
        self._data.write(data)
        self._content.update(data)
        self._lines.append(line)
        self._record(line)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self._save()

    def _record(self, line: dict[str, Any]) -> None:
        self._dtype, self._row_shape = line.get("dtype", self._dtype), line.get("row_shape", self._row_shape)
        for length, row in line["entries"]:
            self._entries.append((self._n_rows, length, row))
            self._n_rows += length
        self._left_out += line["left_out"]
        self.n_batches += 1

    def _save(self) -> None:
        try:
            _sync(self._data)
            lines, self._lines = self._lines, []  # cleared first, because an interrupt may lose lines, but must not write them twice
            self._journal.write(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
            _sync(self._journal)
        except OSError as error:
            raise DataError(f"cannot write {self._part}: {error.strerror}.") from None
        self._saved = time.monotonic()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.is_finished:
            return
        with self._files:  # closing the journal releases the lock
            self._save()
            if error is None:
                self._data.close()
                self._publish()
                self._log.unlink()

    def _publish(self) -> None:
        index = {
            "dtype": self._dtype,
            "row_shape": self._row_shape,
            "extractor": self.extractor,
            "sha256": self._content.hexdigest(),
            "entries": self._entries,
            "left_out": self._left_out,
        }
        temporary = self._index.with_name(self._index.name + ".part")
        with temporary.open("wb") as file:
            file.write(json.dumps(index).encode())
            _sync(file)
        self._index.unlink(missing_ok=True)
        self._part.replace(self._bin)
        temporary.replace(self._index)


def _read_extractor(index: Path) -> dict[str, Any]:
    """The settings in an index whose entries may have another version."""
    try:
        return dict(json.loads(index.read_bytes())["extractor"])
    except (ValueError, KeyError, TypeError, RecursionError):
        raise DataError(f"{index} is damaged; choose another folder, or replace it with --redo.") from None


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def write_shard(folder: Path, name: str, items: Iterable[Item], extractor: dict[str, Any]) -> int:
    """Write a shard; an existing one is replaced.

    Args:
        folder: created if missing.
        name: name of the shard.
        items: arrays with their rows; all arrays have the same dtype and row shape.
        extractor: settings of the extractor; stored in the index.

    Returns:
        The number of items written.
    """
    with ShardWriter(folder, name, extractor, redo=True) as writer:
        for item in items:
            writer.add([item])
    return writer.n_batches
