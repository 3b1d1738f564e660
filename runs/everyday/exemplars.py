"""Choose the exemplars of `everyday`: codes of stretches of training recordings, for each class.

    python runs/everyday/exemplars.py work/manifest.parquet work/shards work/everyday/sampler/checkpoint work/everyday/codebook/checkpoint \
        work/everyday/exemplars

The shards must have `waveforms` from `unsilent data extract`. Of each recording, the stretch is used that is loudest towards its end,
because generated sounds go on from there; shorter recordings are repeated. Recordings are chosen at random, because those that the listener
classifies with most confidence are too similar (LOG.md). The sound of clips is used only for classes without recordings, and recordings
whose licence does not allow sharing only for classes without others. If there are too few recordings, further stretches of them are used,
unless they are much quieter. Takes two minutes on one core.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from unsilent.checkpoints.folders import read_config
from unsilent.checkpoints.store import save_checkpoint
from unsilent.codec.codec import Codec
from unsilent.data.manifest import read_manifest
from unsilent.data.shards import Shard
from unsilent.models.exemplars import Exemplars, ExemplarsConfig

BLOCKS = 64  # blocks of a stretch whose energy is compared
QUIETEST = 0.1  # energy relative to the loudest stretch of a recording
NOT_SHARED = re.compile("NC|NoDeriv|research|stated", re.IGNORECASE)


@torch.inference_mode()
def main() -> None:
    """Choose, encode, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("manifest", "shards", "sampler", "codebook", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--each", type=int, default=12, help="exemplars per class")
    parser.add_argument("--columns", type=int, default=16, help="code columns per exemplar")
    options = parser.parse_args()
    about = read_config(options.sampler)
    classes, rows = about["record"]["classes"], about["config"]["clip"]["levels"]
    codec = Codec.load(str(options.codebook), precision="float32")
    licences = {row.clip_id: row.licence for row in read_manifest(options.manifest)[1]}
    shard, found = Shard(options.shards, "waveforms"), {kind: {name: [] for name in classes} for kind in ("sound", "clip")}
    for number, entry in enumerate(shard.entries):
        if entry.row.split == "train" and entry.row.label in classes and entry.row.kind in found:
            found[entry.row.kind][entry.row.label].append((number, licences[entry.row.clip_id]))
    exemplars = Exemplars(ExemplarsConfig(classes=len(classes), each=options.each, rows=rows, columns=options.columns))
    n_samples, used = options.columns * codec.clip.column_samples, Counter()
    exemplars.silence.copy_(codec.encode(np.zeros(n_samples, np.float32))[:rows])
    exemplars.codes.copy_(exemplars.silence.expand_as(exemplars.codes))  # classes without any sound keep silence
    for number, name in enumerate(classes):
        recordings = found["sound"][name] or found["clip"][name]
        shared = [one for one in recordings if not NOT_SHARED.search(one[1])] or recordings
        chosen = [shared[i] for i in np.random.default_rng(number).permutation(len(shared))[: options.each]]
        ranked = zip_longest(*(stretches(shard[index], n_samples) for index, _ in chosen))  # the best of all recordings come first
        wanted = [one for same_rank in ranked for one in same_rank if one is not None][: options.each]
        codes = [codec.encode(one)[:rows] for one in wanted]
        used.update(licence for _, licence in chosen)
        for place in range(options.each if codes else 0):
            exemplars.codes[number, place].copy_(codes[place % len(codes)])
        sys.stdout.write(f"{name}: {len(codes)} stretches of {len(chosen)} of {len(shared)} recordings\n")
    record = {"classes": classes, "licences": dict(used), "shards": shard.digest}
    save_checkpoint(options.out / "checkpoint", "exemplars", "everyday", exemplars.config, exemplars.state_dict(), record)


def stretches(stored: np.ndarray, n_samples: int) -> Iterator[Float[np.ndarray, "samples"]]:
    """Yield stretches of a recording that overlap by less than half, the loudest first. A shorter recording is one stretch, repeated.

    The energy of a stretch is weighted by the cube of its place in the stretch. Stretches that are quieter by 10 dB are left out.
    """
    waveform, block = stored.astype(np.float32) / 32768, n_samples // BLOCKS
    if len(waveform) <= n_samples:
        yield np.resize(waveform, n_samples)
        return
    energy = np.square(waveform[: len(waveform) // block * block], dtype=np.float64).reshape(-1, block).sum(1)
    weighted = np.convolve(energy, np.linspace(1, 0, BLOCKS) ** 3, "valid")  # reversed by the convolution
    least = weighted.max() * QUIETEST
    while weighted[start := int(weighted.argmax())] >= least:
        yield waveform[start * block : start * block + n_samples]
        weighted[max(0, start - BLOCKS // 2) : start + BLOCKS // 2 + 1] = -1


if __name__ == "__main__":
    main()
