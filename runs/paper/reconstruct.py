"""Reconstruct the sounds of a manifest by codebooks: mels before and after, one clip of each sound, for `unsilent evaluate`.

    python runs/paper/reconstruct.py M.parquet -o DIR --codebook everyday [--codebook NAME|PATH ...] [--split test] [--workers N]

Writes DIR/real/CLIP.mel.npy and, for each codebook, DIR/NAME/CLIP.mel.npy; existing files are kept. A codebook is given by the name of its
model, or as a checkpoint folder.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch

from unsilent.checkpoints.folders import find_bundle, read_config
from unsilent.checkpoints.store import load_checkpoint
from unsilent.codec.stitching import decode_grid
from unsilent.data.extract import one_thread
from unsilent.data.manifest import Row, read_manifest
from unsilent.files import atomic_write
from unsilent.jobs.parallel import Failed, Parallel, map_ordered
from unsilent.media.audio import read_audio
from unsilent.signal.loudness import normalise_loudness
from unsilent.signal.mel import from_mel01, log_mel01


@dataclass(frozen=True)
class Reconstruct:
    """Mel of a row's first clip and its reconstruction by a codebook; both float16 around [-1, 1]."""

    root: Path
    folder: Path

    def __call__(self) -> Callable[[Row], list[np.ndarray]]:
        """Load the codebook; published ones were trained on unchanged sounds, others on sounds of one loudness."""
        codebook, is_published = load_checkpoint(self.folder, "codebook"), "converted_from" in read_config(self.folder)["record"]
        codebook.to(device := torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        clip = codebook.config.clip

        def reconstruct(row: Row) -> list[np.ndarray]:
            first = round(row.start_seconds * clip.sample_rate)
            waveform = read_audio(self.root / row.path, clip.sample_rate)[first : first + clip.columns * clip.column_samples]
            if not is_published:
                waveform = normalise_loudness(waveform, clip.sample_rate)
            waveform = np.pad(waveform, (0, clip.columns_for(len(waveform)) * clip.column_samples - len(waveform)))
            with one_thread(), torch.inference_mode():
                mel = from_mel01(log_mel01(torch.from_numpy(waveform)[None].to(device), clip))
                reconstructed = decode_grid(codebook, codebook.encode(mel)[0])
            return [one.cpu().numpy().astype(np.float16) for one in (mel[0], reconstructed)]

        return reconstruct


def main() -> int:
    """Read the command line; 3 if some sounds failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, metavar="M.parquet")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--codebook", action="append", required=True, metavar="NAME|PATH")
    parser.add_argument("--split", default="test")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--ray", metavar="ADDRESS")
    parser.add_argument("--most", type=int, help="largest number of sounds, evenly spaced")
    options = parser.parse_args()
    root, rows = read_manifest(options.table)
    rows = [row for row in rows if row.kind != "image" and row.split == options.split]
    rows = rows[:: -(-len(rows) // options.most)] if options.most else rows
    failed = 0
    for name in options.codebook:
        is_checkpoint = (Path(name) / "config.json").exists()
        folder = Path(name) if is_checkpoint else find_bundle(name) / "codebook"
        target = options.out / (name.strip("/").replace("/", "_"))
        waiting = [row for row in rows if not (target / f"{row.clip_id}.mel.npy").exists()]
        for row, mels in map_ordered(Reconstruct(root, folder), waiting, Parallel(options.workers, options.ray), attrgetter("clip_id")):
            if isinstance(mels, Failed):
                failed += 1
                sys.stderr.write(f"left out {row.clip_id}: {mels.reason}\n")
                continue
            for place, mel in zip((options.out / "real", target), mels, strict=True):
                path = place / f"{row.clip_id}.mel.npy"
                path.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(path) as temporary:
                    np.save(temporary, mel)
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
