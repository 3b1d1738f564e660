"""Effect of the codebook size: the latents of a trained codebook, requantised with k-means centroids.

    python benchmarks/code_count.py SHARDS [--model everyday] [--classifier FOLDER] [--sounds 300] [--seed 0]

SHARDS is a folder from `unsilent data extract` with waveforms. The centroids are computed from latents of training sounds. The table is
measured on held-out sounds: mean absolute difference of mels in dB, entropy of a code in bits and, with a classifier, top-1 accuracy.
Encoder and decoder are not retrained for the other codebook sizes, which puts these at a slight disadvantage.
"""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import unsilent
from unsilent.data.shards import Shard
from unsilent.evaluation.classifier import Classifier, load_classifier
from unsilent.models.codebook import Codebook
from unsilent.models.quantizer import closest, k_means
from unsilent.signal.mel import RANGE_DB, from_mel01, log_mel01, to_mel01

COUNTS = (64, 128, 256, 512, 1024, 2048)
ROUNDS, MOST_VECTORS = 20, 40_000  # iterations of k-means, and largest number of vectors


@torch.inference_mode()
def main() -> None:
    """Encode, quantise, decode, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--classifier")
    parser.add_argument("--sounds", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    codebook = unsilent.load(options.model, device="cpu", precision="float32").parts.codebook
    classifier = load_classifier(options.classifier, "cpu") if options.classifier else None
    rng = np.random.default_rng(options.seed)
    known = torch.cat([as_rows(codebook.latents(mel)) for _, mel in mels(options, codebook, "train", rng)])
    vectors = known[torch.from_numpy(rng.permutation(len(known))[:MOST_VECTORS])]
    held_out = list(mels(options, codebook, "valid", rng))
    print(f"{options.model}: {len(held_out)} held-out sounds, centres of {len(vectors)} latents")
    print(f"{'codes':>12} {'mel L1 (dB)':>12} {'bits a code':>12} {'top-1 %':>8}")
    report("as trained", codebook, codebook.quantize.embedding.weight, held_out, classifier)
    for count in COUNTS:
        report(str(count), codebook, k_means(vectors, vectors[:count].clone(), ROUNDS), held_out, classifier)
    report("none", codebook, None, held_out, classifier)


def mels(options: argparse.Namespace, codebook: Codebook, split: str, rng: np.random.Generator) -> Iterator[tuple[str, Tensor]]:
    """Yield label and mel in [-1, 1] of sounds of a split, at most one clip of each sound, `[1, mels, frames]`."""
    clip, shard = codebook.config.clip, Shard(options.shards, "waveforms")
    of_split = [i for i, entry in enumerate(shard.entries) if entry.row.split == split and entry.row.label]
    for i in rng.permutation(of_split)[: options.sounds]:
        waveform = torch.from_numpy(np.array(shard[i][: clip.n_samples])).float() / 32768
        if whole := len(waveform) // clip.column_samples * clip.column_samples:
            yield shard.entries[i].row.label, from_mel01(log_mel01(waveform[None, :whole], clip))


def as_rows(latents: Tensor) -> Tensor:
    """Reshape `[batch, dim, rows, columns]` to `[n, dim]`."""
    return latents.movedim(1, -1).flatten(0, -2)


def report(
    name: str, codebook: Codebook, centres: Tensor | None, held_out: list[tuple[str, Tensor]], classifier: Classifier | None
) -> None:
    """Print one line of the table."""
    errors, right, used = [], [], []
    for label, mel in held_out:
        latents = codebook.latents(mel)
        if centres is not None:
            numbers = closest(as_rows(latents), centres)
            used.append(numbers)
            latents = centres[numbers].reshape(latents.movedim(1, -1).shape).movedim(-1, 1)
        made = codebook.decode(latents)
        errors.append((made - mel).abs().mean().item() / 2 * RANGE_DB)
        if classifier is not None:
            right.append(classifier.classes[classifier.classify(classifier.fit(to_mel01(made)[0]))[1].argmax()] == label)
    shares = torch.cat(used).bincount().float() if used else torch.ones(1)
    bits = torch.special.entr(shares / shares.sum()).sum().item() / np.log(2)
    print(f"{name:>12} {np.mean(errors):12.2f} {bits:12.2f} {100 * np.mean(right) if right else np.nan:8.1f}", flush=True)


if __name__ == "__main__":
    main()
