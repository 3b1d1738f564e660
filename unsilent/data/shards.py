"""Arrays of many items behind one another in one file, memory-mapped, with an index that says whose is which."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unsilent.errors import DataError


@dataclass(frozen=True)
class Entry:
    """One item of a shard: where it lies along the first axis, and what the index says of it."""

    start: int
    length: int
    about: dict[str, Any]


class Shard:
    """Read-only view of a shard on disk: `NAME.bin` (raw rows) and `NAME.json` (index, dtype, shape of one row).

    Raises:
        DataError: if the shard is missing, or its data is shorter than its index says.
    """

    def __init__(self, folder: Path, name: str) -> None:
        index_path = folder / f"{name}.json"
        if not index_path.exists():
            raise DataError(f"there is no shard {name!r} in {folder}; make it with `unsilent data extract`.")
        text = index_path.read_bytes()
        index = json.loads(text)
        self.digest = hashlib.sha256(text).hexdigest()  # of the index, which has that of the data
        self.extractor: dict[str, Any] = index["extractor"]
        self.entries = [Entry(*entry) for entry in index["entries"]]
        shape = (sum(entry.length for entry in self.entries), *index["row_shape"])
        path = folder / f"{name}.bin"
        wanted = int(np.prod(shape)) * np.dtype(index["dtype"]).itemsize
        if path.stat().st_size != wanted:
            raise DataError(f"{path} has {path.stat().st_size} bytes, its index promises {wanted}; extract it again.")
        self.array = np.memmap(path, dtype=index["dtype"], mode="r", shape=shape)

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, i: int) -> np.ndarray:
        entry = self.entries[i]
        return self.array[entry.start : entry.start + entry.length]


def write_shard(folder: Path, name: str, items: Iterable[tuple[np.ndarray, dict[str, Any]]], extractor: dict[str, Any]) -> int:
    """Write items behind one another; the index appears last, so that a shard with an index is whole.

    Args:
        folder: made if absent.
        name: of the shard.
        items: an array `[length, ...]` of one dtype and row shape each, and what to say of it in the index.
        extractor: how the arrays were made; stored in the index.

    Returns:
        The number of items written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").unlink(missing_ok=True)
    entries: list[tuple[int, int, dict[str, Any]]] = []
    position, dtype, row_shape, content = 0, "float32", (), hashlib.sha256()
    with (folder / f"{name}.bin").open("wb") as file:
        for array, about in items:
            dtype, row_shape = str(array.dtype), array.shape[1:]
            data = np.ascontiguousarray(array).tobytes()
            file.write(data)
            content.update(data)
            entries.append((position, len(array), about))
            position += len(array)
    index = {"dtype": dtype, "row_shape": row_shape, "extractor": extractor, "sha256": content.hexdigest(), "entries": entries}
    temporary = folder / f"{name}.json.part"
    temporary.write_text(json.dumps(index))
    temporary.replace(folder / f"{name}.json")
    return len(entries)
