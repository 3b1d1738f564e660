"""Packs all files of a job as a ZIP. Does not import torch, so that the server starts quickly."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from unsilent.media.suffixes import CODES_SUFFIX, PROJECT_SUFFIXES, SOUND_SUFFIXES
from unsilent.outputs import SIDECAR_SUFFIX, WRITABLE_SUFFIXES
from unsilent.request import OWN

FILM = "video"  # folder of the source video in the ZIP
_PACKED = (".json", CODES_SUFFIX, *WRITABLE_SUFFIXES, *SOUND_SUFFIXES, *PROJECT_SUFFIXES)
_BLOCK = 1 << 20  # bytes


class _Pieces:
    """A write-only file object without seeking; `take` returns and removes the data written so far."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._pieces.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def take(self) -> bytes:
        pieces, self._pieces = self._pieces, []
        return b"".join(pieces)


def zipped(folder: Path, source: Path | None) -> Iterator[bytes]:
    """Pack the files of a job as a ZIP, and yield it in blocks.

    Args:
        folder: folder of the job.
        source: video that the sounds were generated for; None if it has been deleted.
    """
    pieces = _Pieces()
    found = [(path, path.name) for path in sorted(folder.iterdir()) if path.suffix in _PACKED]
    with zipfile.ZipFile(pieces, "w", allowZip64=True) as bundle:
        for path, name in [*found, *([] if source is None else [(source, f"{FILM}/{source.name}")])]:
            if name.endswith(SIDECAR_SUFFIX):
                bundle.writestr(name, _moved(path))
                continue
            with bundle.open(name, "w", force_zip64=True) as packed, path.open("rb") as file:
                while block := file.read(_BLOCK):
                    packed.write(block)
                    yield pieces.take()
    yield pieces.take()


def _moved(sidecar: Path) -> str:
    """Rewrite a sidecar: the video's path becomes its path in the ZIP, and paths of other uploads become file names."""
    content = json.loads(sidecar.read_text(encoding="utf-8"))
    if content["video"] is not None:
        content["video"]["path"] = f"{FILM}/{Path(content['video']['path']).name}"
    given = content["request"]
    given |= {name: Path(given[name]).name for name in ("prime", "like") if given.get(name) not in (None, OWN)}
    return json.dumps(content, indent=1) + "\n"
