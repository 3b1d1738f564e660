"""What a classifier says of many files, kept on disk as it comes, so that an interrupted evaluation goes on where it was."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from unsilent.errors import DataError
from unsilent.evaluation.classifier import Classifier
from unsilent.evaluation.sounds import Sound
from unsilent.version import __version__

Result = tuple[np.ndarray, np.ndarray]  # features and logits of one sound

_KEY_BYTES = 16  # of the digest of a file's content


class ResultCache:
    """Features and logits by the content of files, in one file that only ever grows.

    Args:
        folder: made if absent; the file in it is named by the classifier's digest and by our version,
            since another may prepare sounds otherwise.
        judge: whose results are kept.

    Raises:
        DataError: if the folder cannot be written.
    """

    def __init__(self, folder: Path, judge: Classifier) -> None:
        self.judge, self.path = judge, folder / f"{judge.digest}-{__version__}.rows"
        self._row = np.dtype([("key", f"V{_KEY_BYTES}"), ("features", "<f4", judge.dim), ("logits", "<f4", len(judge.classes))])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:  # a row that was cut off by a kill goes
                file.truncate(file.tell() // self._row.itemsize * self._row.itemsize)
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror}.") from None
        self._places = {bytes(key): place for place, key in enumerate(self._rows()["key"])}

    def _rows(self) -> np.ndarray:
        if not self.path.stat().st_size:
            return np.zeros(0, self._row)  # nothing cannot be mapped
        return np.memmap(self.path, self._row, mode="r")

    def missing(self, keys: dict[Sound, bytes]) -> list[Sound]:
        """The first sound of each content that was not judged yet."""
        waiting = {key: sound for sound, key in reversed(keys.items()) if key not in self._places}
        return [sound for sound, key in keys.items() if waiting.get(key) is sound]

    def keep(self, heard: Iterable[tuple[bytes, "Result"]]) -> Iterator[bytes]:
        """Write results as they come.

        Args:
            heard: contents with what the classifier said of them.

        Yields:
            Each content, once its result is on disk.
        """
        place = len(self._places)
        with self.path.open("ab", buffering=0) as file:
            for key, (features, logits) in heard:
                row = np.zeros((), self._row)
                row["key"], row["features"], row["logits"] = np.void(key), features, logits
                file.write(row.tobytes())
                self._places[key] = place
                place += 1
                yield key

    def of(self, keys: Sequence[bytes]) -> tuple[Float[np.ndarray, "samples dim"], Float[np.ndarray, "samples labels"]]:
        """Features and logits of contents that were judged, in their order."""
        rows = self._rows()[[self._places[key] for key in keys]]
        return rows["features"], rows["logits"]


def digest(sound: Sound) -> bytes:
    """What a file's content is known by; mels and sounds of one content differ."""
    with sound.path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.sha256(b"mel" if sound.is_mel else b"")).digest()[:_KEY_BYTES]
