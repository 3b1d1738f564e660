"""Reconstruct the sounds of a manifest with codebooks, for `unsilent evaluate`: original and reconstructed mels, one clip per sound.

    python runs/paper/reconstruct.py M.parquet -o DIR --codebook everyday [--codebook NAME|PATH ...] [--split test] [--workers N]

Writes DIR/real/CLIP.mel.npy and, for each codebook, DIR/NAME/CLIP.mel.npy; existing files are kept. A codebook is given as the name of its
model or as a checkpoint folder. With `--wav` it writes sounds instead of mels: the real sound, and the output of codebook and vocoder.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np
import torch

from unsilent.checkpoints.folders import find_part, read_config, trained_loudness
from unsilent.checkpoints.store import load_checkpoint
from unsilent.clip import Clip
from unsilent.codec.codec import Codec
from unsilent.codec.stitching import decode_grid
from unsilent.data.extract import one_thread
from unsilent.data.manifest import Row, read_manifest
from unsilent.files import atomic_write
from unsilent.jobs.parallel import Failed, Parallel, map_ordered
from unsilent.media.audio import read_audio
from unsilent.media.sounds import write_sound
from unsilent.signal.loudness import normalise_loudness
from unsilent.signal.mel import from_mel01, log_mel01


@dataclass(frozen=True)
class Reconstruct:
    """Picklable factory of a function that returns the mel of a row's first clip and its reconstruction, both float16 in about [-1, 1].

    With `vocoder`, the name of a model, the function returns waveforms instead.
    """

    root: Path
    folder: Path
    vocoder: str | None = None

    def __call__(self) -> Callable[[Row], list[np.ndarray]]:
        """Load the codebook. Sounds get the loudness of its training; published codebooks were trained on sounds as recorded."""
        about = read_config(self.folder)
        codebook, record = load_checkpoint(self.folder, about["kind"]), about["record"]
        normalises = trained_loudness(record) is not None
        codebook.to(device := torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        clip, codec = codebook.config.clip, Codec.load(self.vocoder) if self.vocoder else None

        def reconstruct(row: Row) -> list[np.ndarray]:
            first = round(row.start_seconds * clip.sample_rate)
            waveform = read_audio(self.root / row.path, clip.sample_rate)[first : first + clip.columns * clip.column_samples]
            if normalises:
                waveform = normalise_loudness(waveform, clip.sample_rate)
            waveform = np.resize(waveform, clip.columns * clip.column_samples)  # short sounds are repeated, as in the paper
            with one_thread(), torch.inference_mode():
                mel = from_mel01(log_mel01(torch.from_numpy(waveform)[None].to(device), clip))
                reconstructed = decode_grid(codebook, codebook.encode(mel)[0])
            if codec is not None:
                return [waveform, codec.sound(reconstructed.cpu().numpy())]
            return [one.cpu().numpy().astype(np.float16) for one in (mel[0], reconstructed)]

        return reconstruct


def main() -> int:
    """Parse the command line and run. Returns 3 if some sounds failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, metavar="M.parquet")
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--codebook", action="append", required=True, metavar="NAME|PATH")
    parser.add_argument("--split", default="test")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--ray", metavar="ADDRESS")
    parser.add_argument("--most", type=int, help="use only N evenly spaced sounds")
    parser.add_argument("--wav", action="store_true", help="write sounds instead of mels")
    options = parser.parse_args()
    suffix = ".wav" if options.wav else ".mel.npy"
    root, rows = read_manifest(options.table)
    rows = [row for row in rows if row.kind != "image" and row.split == options.split]
    rows = rows[:: -(-len(rows) // options.most)] if options.most else rows
    failed = 0
    for name in options.codebook:
        is_checkpoint = (Path(name) / "config.json").exists()
        folder, vocoder = find_part("codebook", name), ("everyday" if is_checkpoint else name) if options.wav else None
        target = options.out / (name.strip("/").replace("/", "_"))
        waiting, work = [row for row in rows if not (target / f"{row.clip_id}{suffix}").exists()], Reconstruct(root, folder, vocoder)
        for row, made in map_ordered(work, waiting, Parallel(options.workers, options.ray), attrgetter("clip_id")):
            if isinstance(made, Failed):
                failed += 1
                sys.stderr.write(f"left out {row.clip_id}: {made.reason}\n")
                continue
            for place, one in zip((options.out / "real", target), made, strict=True):
                path = place / f"{row.clip_id}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                if options.wav:
                    write_sound(path, one, Clip().sample_rate)
                else:
                    with atomic_write(path) as temporary:
                        np.save(temporary, one)
    return 3 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
