"""Files of codes: bit rates with plain and entropy coding, losslessness, speed of coding and decoding, and damaged files.

    python benchmarks/codes.py M.parquet [--sounds 500] [--model everyday] [--split valid] [--damaged 10000]

At most one clip of each sound is used. Times are CPU seconds of one thread. Damaged files hold the first twelve sounds, with random bytes
changed, removed or doubled, or with the end cut off.
"""

import argparse
import json
import sys
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from unsilent.codec.bitstream import Header, pack, unpack
from unsilent.codec.codec import Codec
from unsilent.codec.files import header_of
from unsilent.data.manifest import read_manifest
from unsilent.errors import DataError, MediaError
from unsilent.media.audio import read_audio
from unsilent.signal.loudness import normalise_loudness


def main() -> None:
    """Parse the command line, encode and decode all sounds, print the results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, metavar="M.parquet")
    parser.add_argument("--sounds", type=int, default=500)
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--decoded", type=int, default=500, help="number of sounds that are decoded")
    parser.add_argument("--damaged", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)
    codec, (root, rows) = Codec.load(options.model, "cpu"), read_manifest(options.table)
    rows = [row for row in rows if row.kind == "sound" and row.split == options.split]
    rows = rows[:: max(1, len(rows) // options.sounds)][: options.sounds]
    coders, header = {"plain": codec.coder(False), "entropy": codec.coder(True)}, header_of(codec)
    sizes, spent, played, wrong, grids, n_sounds = defaultdict(int), defaultdict(float), defaultdict(float), 0, [], 0
    for row in rows:
        try:
            waveform = normalise_loudness(read_audio(root / row.path, codec.clip.sample_rate), codec.clip.sample_rate)
        except MediaError:
            continue
        waveform = waveform[: codec.clip.n_samples]
        if len(waveform) < codec.clip.column_samples:
            continue
        n_sounds += 1
        is_decoded = n_sounds <= options.decoded
        began = time.process_time()
        grid = codec.encode(waveform).numpy()
        spent["encoder"] += time.process_time() - began
        lasts = grid.shape[1] * codec.clip.column_seconds
        grids.append(grid)
        for name in ("encoder", "plain coding", "entropy coding"):
            played[name] += lasts
        if is_decoded:
            began = time.process_time()
            codec.vocode(codec.decode(torch.from_numpy(grid)))
            spent["decoder"] += time.process_time() - began
            for name in ("decoder", "plain decoding", "entropy decoding"):
                played[name] += lasts
        plain = sum(map(len, pack(header, [grid], lambda n=len(waveform): n)))
        for name, coder in coders.items():
            began = time.process_time()
            coded = coder.encode(grid.T)
            spent[f"{name} coding"] += time.process_time() - began
            if is_decoded:
                began = time.process_time()
                wrong += not np.array_equal(coder.decode(coded, grid.shape[1]), grid.T)
                spent[f"{name} decoding"] += time.process_time() - began
            sizes[name] += len(coded)
            sizes[f"{name}, file"] += plain + len(coded) - len(header.plain.encode(grid.T))
        bits = {name: round(8 * size / played["encoder"]) for name, size in sizes.items()}
        sys.stderr.write(f"\r{n_sounds} sounds, {played['encoder']:.0f} s, bits a second: {bits}")
    seconds = played["encoder"]
    sys.stdout.write(
        json.dumps(
            {
                "sounds": n_sounds,
                "seconds": round(seconds, 1),
                "bits_a_second": {name: round(8 * size / seconds, 1) for name, size in sizes.items()},
                "sounds_that_differ": wrong,
                "times_faster_than_playback": {name: round(played[name] / max(one, 1e-9), 1) for name, one in spent.items()},
                "damaged": damage(header, np.concatenate(grids[:12], axis=1), options.damaged),
            },
            indent=1,
        )
        + "\n"
    )


def damage(header: Header, grid: np.ndarray, count: int) -> dict[str, object]:
    """Damage a file at random. Returns how many were rejected with an error, read in part, read with wrong codes, or crashed."""
    each = header.block_columns
    data = b"".join(
        pack(
            header,
            [grid[:, start : start + each] for start in range(0, grid.shape[1], each)],
            lambda: grid.shape[1] * header.column_samples,
        )
    )
    rng, found = np.random.default_rng(1), defaultdict(float)
    for _ in range(count):
        changed = bytearray(data)
        for _ in range(rng.integers(1, 4)):
            place, kind = int(rng.integers(len(changed))), rng.integers(4)
            length = int(rng.integers(1, 50))
            if kind == 0:
                changed[place] = rng.integers(256)
            elif kind == 1:
                del changed[place : place + length]
            elif kind == 2:
                changed[place:place] = changed[place : place + length]
            else:
                del changed[place + 1 :]
        try:
            read = unpack(bytes(changed)).grid
        except DataError:
            found["refused"] += 1
            continue
        except Exception:
            found["crashed"] += 1
            continue
        n_columns = min(read.shape[1], grid.shape[1])
        kept = read[:, :n_columns] >= 0
        found["read"] += 1
        found["wrong"] += not np.array_equal(read[:, :n_columns][kept], grid[:, :n_columns][kept])
        found["share_saved"] += kept.sum() / grid.size / count
    return {"files": count, **{name: round(found[name], 3) for name in ("refused", "read", "wrong", "crashed", "share_saved")}}


if __name__ == "__main__":
    main()
