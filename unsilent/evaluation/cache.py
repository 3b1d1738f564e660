"""Cache of classifier results on disk; results are appended one by one, so that an interrupted evaluation resumes."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from unsilent.errors import DataError
from unsilent.evaluation.classifier import Classifier, Result
from unsilent.evaluation.sounds import KEY_BYTES, Sound
from unsilent.version import __version__


class ResultCache:
    """Features and logits by content key, in one append-only file.

    Args:
        folder: created if missing. The file's name has the classifier's digest and the package version, because another version may
            preprocess sounds differently.
        classifier: the classifier of the results.

    Attributes:
        n_added: number of results added by this process.

    Raises:
        DataError: if the folder cannot be written.
    """

    def __init__(self, folder: Path, classifier: Classifier) -> None:
        self.classifier, self.path, self.n_added = classifier, folder / f"{classifier.digest}-{__version__}.rows", 0
        n_classes = len(classifier.classes)
        self._dtype = np.dtype([("key", f"V{KEY_BYTES}"), ("features", "<f4", classifier.feature_dim), ("logits", "<f4", n_classes)])
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:  # a killed process may have left an incomplete last row
                file.truncate(file.tell() // self._dtype.itemsize * self._dtype.itemsize)
        except OSError as error:
            raise DataError(f"cannot write {self.path}: {error.strerror}.") from None
        self._row_of = {bytes(key): row for row, key in enumerate(self._rows()["key"])}

    def _rows(self) -> np.ndarray:
        if not self.path.stat().st_size:
            return np.zeros(0, self._dtype)  # an empty file cannot be mapped
        return np.memmap(self.path, self._dtype, mode="r")

    def missing(self, keys: dict[Sound, bytes]) -> list[Sound]:
        """Sounds without a result; of sounds with equal content, only the first."""
        waiting = {key: sound for sound, key in reversed(keys.items()) if key not in self._row_of}
        return [sound for sound, key in keys.items() if waiting.get(key) is sound]

    def add(self, results: Iterable[tuple[bytes, Result]]) -> Iterator[bytes]:
        """Append results as they arrive.

        Args:
            results: content keys, with features and logits.

        Yields:
            Each content key when its result is on disk.
        """
        with self.path.open("ab", buffering=0) as file:
            for key, (features, logits) in results:
                row = np.zeros((), self._dtype)
                row["key"], row["features"], row["logits"] = np.void(key), features, logits
                try:
                    file.write(row.tobytes())
                except OSError as error:
                    raise DataError(f"cannot write {self.path}: {error.strerror}.") from None
                self._row_of[key] = len(self._row_of)
                self.n_added += 1
                yield key

    def get(self, keys: Sequence[bytes]) -> tuple[Float[np.ndarray, "samples dim"], Float[np.ndarray, "samples labels"]]:
        """Features and logits in the order of `keys`, all of which must be in the cache."""
        rows = self._rows()[[self._row_of[key] for key in keys]]
        return rows["features"], rows["logits"]
