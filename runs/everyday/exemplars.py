"""Choose the exemplars of `everyday`: codes of stretches of training recordings, for each class.

    python runs/everyday/exemplars.py work/manifest.parquet work/shards work/everyday/sampler/checkpoint work/everyday/codebook/checkpoint \
        work/everyday/listener/checkpoint work/everyday/exemplars

The shards must have `waveforms` from `unsilent data extract`. Of each recording, the stretch is used that is loudest towards its end,
because generated sounds go on from there; shorter recordings are repeated. Recordings are chosen at random, because those that the listener
classifies with most confidence are too similar (LOG.md). But stretches whose class is not among its likeliest are left out, such as purrs
of cats. Recordings whose licence does not allow sharing are used only if there are too few others, and the sound of clips only for classes
without recordings. If there are too few recordings, further stretches of them are used, unless they are much quieter. Takes ten minutes on
one core.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int

from unsilent.checkpoints.bundle import load_ranker
from unsilent.checkpoints.folders import read_config
from unsilent.checkpoints.store import save_checkpoint
from unsilent.codec.codec import Codec
from unsilent.data.manifest import read_manifest
from unsilent.data.shards import Shard
from unsilent.models.exemplars import Exemplars, ExemplarsConfig
from unsilent.models.listener import Ranker
from unsilent.signal.mel import to_mel01

BLOCKS = 64  # blocks of a stretch whose energy is compared
TRIED, FEWEST, LIKELIEST = 2, 4, 8  # stretches per exemplar that are tried; exemplars per class at least; rank of the class at most
QUIETEST = 0.1  # energy relative to the loudest stretch of a recording
AGREED = re.compile("agreement", re.IGNORECASE)  # recordings for those who have signed an agreement are not used
NOT_SHARED = re.compile("NC|NoDeriv|research|stated", re.IGNORECASE)


@torch.inference_mode()
def main() -> None:
    """Choose, encode, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("manifest", "shards", "sampler", "codebook", "listener", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--each", type=int, default=12, help="exemplars per class")
    parser.add_argument("--columns", type=int, default=16, help="code columns per exemplar")
    options = parser.parse_args()
    about = read_config(options.sampler)
    classes, rows = about["record"]["classes"], about["config"]["clip"]["levels"]
    codec, ranker = Codec.load(str(options.codebook), precision="float32"), load_ranker(options.listener)
    licences = {row.clip_id: row.licence for row in read_manifest(options.manifest)[1]}
    shard, found = Shard(options.shards, "waveforms"), {kind: {name: [] for name in classes} for kind in ("sound", "clip")}
    for number, entry in enumerate(shard.entries):
        licence = licences[entry.row.clip_id]
        if entry.row.split == "train" and entry.row.label in classes and entry.row.kind in found and not AGREED.search(licence):
            found[entry.row.kind][entry.row.label].append((number, licence))
    exemplars = Exemplars(ExemplarsConfig(classes=len(classes), each=options.each, rows=rows, columns=options.columns))
    n_samples, used = options.columns * codec.clip.column_samples, Counter()
    exemplars.silence.copy_(codec.encode(np.zeros(n_samples, np.float32))[:rows])
    exemplars.codes.copy_(exemplars.silence.expand_as(exemplars.codes))  # classes without any sound keep silence
    for number, name in enumerate(classes):
        recordings, rng = found["sound"][name] or found["clip"][name], np.random.default_rng(number)
        shared = [one for one in recordings if not NOT_SHARED.search(one[1])]
        tried, kept = list[Tried](), list[Tried]()
        for group in (shared, [one for one in recordings if one not in shared]):
            if len(kept) < options.each:
                chosen = [group[i] for i in rng.permutation(len(group))[: TRIED * options.each]]
                ranked = zip_longest(*(stretches(shard[index], n_samples) for index, _ in chosen))  # the best of all recordings come first
                loudest = [(one, licence) for same in ranked for one, (_, licence) in zip(same, chosen, strict=True) if one is not None]
                tried += [encode(*one, name, codec, ranker, rows) for one in loudest[: TRIED * options.each]]
                kept = [one for one in tried if one.rank < LIKELIEST][: options.each]
        kept = kept if len(kept) >= FEWEST else sorted(tried, key=lambda one: one.rank)[:FEWEST]
        used.update(one.licence for one in kept)
        for place in range(options.each if kept else 0):
            exemplars.codes[number, place].copy_(kept[place % len(kept)].codes)
        sys.stdout.write(f"{name}: {len(kept)} of {len(tried)} stretches; recordings: {len(shared)} shared, {len(recordings)} in all\n")
    record = {"classes": classes, "licences": dict(used), "shards": shard.digest}
    save_checkpoint(options.out / "checkpoint", "exemplars", "everyday", exemplars.config, exemplars.state_dict(), record)


class Tried(NamedTuple):
    """A stretch that may become an exemplar, and how many classes the listener finds likelier than its own; 0 for a class it lacks."""

    codes: Int[torch.Tensor, "rows columns"]
    licence: str
    rank: int


def encode(waveform: Float[np.ndarray, "samples"], licence: str, name: str, codec: Codec, ranker: Ranker, rows: int) -> Tried:
    """Encode a stretch, and rank its class by what the listener finds in the decoded codes."""
    codes = codec.encode(waveform)[:rows]
    if name not in ranker.classes:
        return Tried(codes, licence, 0)
    logits = ranker.listener(to_mel01(codec.decode(codes))[None])[0]
    return Tried(codes, licence, int((logits > logits[ranker.classes.index(name)]).sum()))


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
