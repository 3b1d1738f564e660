"""Choose the exemplars of `everyday`: codes of stretches of training recordings, for each class.

    python runs/everyday/exemplars.py work/manifest.parquet work/shards work/everyday/sampler/checkpoint work/everyday/codebook/checkpoint \
        work/everyday/exemplars

The shards must have `waveforms` from `unsilent data extract`. The stretch with the highest energy of each recording is used; shorter
recordings are repeated. Recordings are chosen at random, because those that the listener classifies with most confidence are too similar
(LOG.md). Recordings whose licence does not allow sharing are used only for classes without others. Takes two minutes on one core.
"""

import argparse
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from unsilent.checkpoints.folders import read_config
from unsilent.checkpoints.store import save_checkpoint
from unsilent.codec.codec import Codec
from unsilent.data.manifest import read_manifest
from unsilent.data.shards import Shard
from unsilent.generation.priming import loudest
from unsilent.models.exemplars import Exemplars, ExemplarsConfig

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
    shard, recordings = Shard(options.shards, "waveforms"), {name: [] for name in classes}
    for number, entry in enumerate(shard.entries):
        if entry.row.kind == "sound" and entry.row.split == "train" and entry.row.label in recordings:
            recordings[entry.row.label].append((number, licences[entry.row.clip_id]))
    exemplars = Exemplars(ExemplarsConfig(classes=len(classes), each=options.each, rows=rows, columns=options.columns))
    n_samples, used = options.columns * codec.clip.column_samples, Counter()
    exemplars.silence.copy_(codec.encode(np.zeros(n_samples, np.float32))[:rows])
    exemplars.codes.copy_(exemplars.silence.expand_as(exemplars.codes))  # classes without recordings keep silence
    for number, name in enumerate(classes):
        shared = [one for one in recordings[name] if not NOT_SHARED.search(one[1])] or recordings[name]
        chosen = [shared[i] for i in np.random.default_rng(number).permutation(len(shared))[: options.each]]
        codes = [codec.encode(stretch(shard[index], n_samples))[:rows] for index, _ in chosen]
        used.update(licence for _, licence in chosen)
        for place in range(options.each if codes else 0):
            exemplars.codes[number, place].copy_(codes[place % len(codes)])
        sys.stdout.write(f"{name}: {len(codes)} of {len(shared)} recordings\n")
    record = {"classes": classes, "licences": dict(used), "shards": shard.digest}
    save_checkpoint(options.out / "checkpoint", "exemplars", "everyday", exemplars.config, exemplars.state_dict(), record)


def stretch(stored: np.ndarray, n_samples: int) -> Float[np.ndarray, "samples"]:
    """Return the loudest stretch of a recording; a shorter recording is repeated."""
    return np.resize(loudest(stored.astype(np.float32) / 32768, n_samples), n_samples)


if __name__ == "__main__":
    main()
