"""Arrays of many items behind one another in one file, memory-mapped, with an index that says whose is which."""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from unsilent.errors import DataError
from unsilent.files import try_lock

_SAVE_SECONDS = 1.0  # of work that a kill may cost


def as_mel01(stored: np.ndarray) -> np.ndarray:
    """float32 in [0, 1] of a row of the shard `mels`, which is a floating point number, or a whole one from 0 to 255."""
    return stored.astype(np.float32) / np.float32(255 if stored.dtype == np.uint8 else 1)


def coarse(values: np.ndarray) -> tuple[np.ndarray, dict[str, float]]:
    """Numbers of an item as whole ones from 0 to 255, and what its index entry must say of them; see `fine`."""
    lowest, highest = float(values.min()), float(values.max())
    step = (highest - lowest) / 255 or 1.0
    return np.round((values - lowest) / step).astype(np.uint8), {"lowest": lowest, "step": step}


def fine(stored: np.ndarray, about: dict[str, Any]) -> np.ndarray:
    """float32 of an item that is stored as floating point numbers, or by `coarse`; off by half a step at most."""
    values = stored.astype(np.float32)
    return values if stored.dtype != np.uint8 else values * np.float32(about["step"]) + np.float32(about["lowest"])


def sounds_in(folder: Path) -> str:
    """Name of the shard that holds the sounds of a folder: `waveforms`, or `mels` if there are only these."""
    return "mels" if (folder / "mels.json").exists() and not (folder / "waveforms.json").exists() else "waveforms"


@dataclass(frozen=True)
class Entry:
    """One item of a shard: where it lies along the first axis, and what the index says of it."""

    start: int
    length: int
    about: dict[str, Any]


class Shard:
    """Read-only view of a shard on disk: `NAME.bin` (raw rows) and `NAME.json` (index, dtype, shape of one row).

    Attributes:
        name: of the shard.
        entries: one for each item.
        left_out: names of what the extractor could not make an item of, and why.
        extractor: how the items were made.
        digest: of the index, which has that of the data.

    Raises:
        DataError: if the shard is missing, or its data is shorter than its index says.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        index_path = folder / f"{name}.json"
        if not index_path.exists():
            raise DataError(f"there is no shard {name!r} in {folder}; make it with `unsilent data extract`.")
        text = index_path.read_bytes()
        index = json.loads(text)
        self.digest = hashlib.sha256(text).hexdigest()
        self.extractor: dict[str, Any] = index["extractor"]
        self.entries = [Entry(*entry) for entry in index["entries"]]
        self.left_out: list[tuple[str, str]] = [(name, why) for name, why in index.get("left_out", [])]
        shape = (sum(entry.length for entry in self.entries), *index["row_shape"])
        path = folder / f"{name}.bin"
        wanted = int(np.prod(shape)) * np.dtype(index["dtype"]).itemsize
        if path.stat().st_size != wanted:
            raise DataError(f"{path} has {path.stat().st_size} bytes, its index promises {wanted}; extract it again.")
        # of nothing there is no map
        self.array = np.memmap(path, dtype=index["dtype"], mode="r", shape=shape) if wanted else np.empty(shape, index["dtype"])

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> np.ndarray:
        entry = self.entries[i]
        return self.array[entry.start : entry.start + entry.length]


class Writer:
    """Writes a shard piece by piece, and goes on where an earlier writer of the same was stopped, by a kill or for want of power.

    Data goes to `NAME.bin.part`, and `NAME.journal` says of each piece what it gave. Both reach the disk once a second, data first; what is
    torn, or has no line in the journal, is cut off by the next writer. The whole shard appears by renaming, its index last, and one that
    is replaced stays until then. Used in a `with` block, at whose end the shard is whole, or, after an error, waits to be gone on with.

    Args:
        folder: made if absent.
        name: of the shard.
        extractor: how the arrays are made and of what; stored in the index.
        redo: throw away what lies there, whole or begun, instead of keeping it.

    Attributes:
        n_pieces: how many are there already.
        is_whole: whether the whole shard is, and nothing may be added.

    Raises:
        DataError: if another process is writing the shard, or what lies there was made otherwise and `redo` is not set.
    """

    def __init__(self, folder: Path, name: str, extractor: dict[str, Any], redo: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._index, self._bin, self._part, self._log = (folder / f"{name}.{end}" for end in ("json", "bin", "bin.part", "journal"))
        self.extractor = json.loads(json.dumps(extractor))  # as it will be read back
        self.n_pieces = self._n_rows = 0
        self._entries: list[tuple[int, int, dict[str, Any]]] = []
        self._left_out: list[tuple[str, str]] = []
        self._dtype, self._row_shape, self._content = "float32", [], hashlib.sha256()
        self._lines, self._saved = [], time.monotonic()
        self.is_whole = self._index.exists() and not redo
        if self.is_whole:
            self._refuse_other(json.loads(self._index.read_bytes())["extractor"], self._bin)
            return
        with ExitStack() as files:
            self._journal: BinaryIO = files.enter_context(self._log.open("ab+"))
            if not try_lock(self._journal.fileno()):
                raise DataError(f"another process is writing {self._bin}; wait for it, or choose another folder.")
            if redo:
                self._journal.truncate(0)
            elif not self._part.exists() and self._bin.exists():
                self._bin.replace(self._part)  # killed just before the index appeared
            self._data: BinaryIO = files.enter_context(self._part.open("ab+"))
            self._resume()
            self._files = files.pop_all()

    def _refuse_other(self, found: dict[str, Any], path: Path) -> None:
        if found != self.extractor:
            differing = sorted(key for key in found.keys() | self.extractor.keys() if found.get(key) != self.extractor.get(key))
            raise DataError(
                f"{path} was made otherwise, with another {', '.join(differing)}; choose another folder, or replace it by --redo."
            )

    def _resume(self) -> None:
        """Take what the journal and the data agree on, and cut off the rest."""
        n_good, n_bytes, n_there = 0, 0, self._part.stat().st_size
        self._journal.seek(0)
        for line in self._journal.read().splitlines(keepends=True):
            said = json.loads(line) if line.endswith(b"\n") else None
            if said is None or n_bytes + said.get("bytes", 0) > n_there:
                break
            if n_good:
                self._take(said)
                n_bytes += said["bytes"]
            else:
                self._refuse_other(said["extractor"], self._part)
            n_good += len(line)
        self._journal.truncate(n_good)
        if not n_good:
            self._lines.append({"extractor": self.extractor})
        self._data.truncate(n_bytes)
        self._data.seek(0)
        while block := self._data.read(1 << 24):
            self._content.update(block)

    def add(self, entries: Sequence[tuple[np.ndarray, dict[str, Any]]], left_out: Sequence[tuple[str, str]] = ()) -> None:
        """Write one piece.

        Args:
            entries: arrays `[length, ...]`, all of one dtype and row shape in a shard, and what to say of each in the index.
            left_out: names of what could not be made, and why, for the index.
        """
        data = b"".join(np.ascontiguousarray(array).tobytes() for array, _ in entries)
        kind = {"dtype": str(entries[0][0].dtype), "row_shape": entries[0][0].shape[1:]} if entries else {}
        said = {"bytes": len(data), **kind, "entries": [(len(array), about) for array, about in entries], "left_out": list(left_out)}
        self._data.write(data)
        self._content.update(data)
        self._lines.append(said)
        self._take(said)
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self._save()

    def _take(self, said: dict[str, Any]) -> None:
        self._dtype, self._row_shape = said.get("dtype", self._dtype), said.get("row_shape", self._row_shape)
        for length, about in said["entries"]:
            self._entries.append((self._n_rows, length, about))
            self._n_rows += length
        self._left_out += said["left_out"]
        self.n_pieces += 1

    def _save(self) -> None:
        _sync(self._data)
        lines, self._lines = self._lines, []  # before they are written: an interrupt may lose them, but not write them twice
        self._journal.write(b"".join(json.dumps(said).encode() + b"\n" for said in lines))
        _sync(self._journal)
        self._saved = time.monotonic()

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.is_whole:
            return
        with self._files:  # and with them the lock
            self._save()
            if error is None:
                self._data.close()
                self._appear()
                self._log.unlink()

    def _appear(self) -> None:
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


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def write_shard(folder: Path, name: str, items: Iterable[tuple[np.ndarray, dict[str, Any]]], extractor: dict[str, Any]) -> int:
    """Write items behind one another, in place of what lies there.

    Args:
        folder: made if absent.
        name: of the shard.
        items: an array `[length, ...]` of one dtype and row shape each, and what to say of it in the index.
        extractor: how the arrays were made; stored in the index.

    Returns:
        The number of items written.
    """
    with Writer(folder, name, extractor, redo=True) as writer:
        for item in items:
            writer.add([item])
    return writer.n_pieces
