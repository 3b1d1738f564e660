"""Fit the image classifier: logistic regression from the image network's features to the labels of sounds.

    python runs/everyday/sight.py work/shards work/everyday/sight

The shards must have `features` and `waveforms` from `unsilent data extract`. The output is a folder with `checkpoint/`, for the setting
`sight` of a sampler's training. Takes a minute. Prints the accuracy on held-out images and on held-out clips.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from unsilent.checkpoints.store import save_checkpoint
from unsilent.data.shards import Shard, dequantise
from unsilent.models.condition import Sight
from unsilent.models.configs import SightConfig

UNSEEN = -1e4  # bias of classes without training images
CLIP_FRAMES = 12  # evenly spaced frames per video
ITERATIONS = 400
SMOOTHING = 0.1  # label smoothing, so that similar classes share their probability


def main() -> None:
    """Fit, print accuracies, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--decay", type=float, default=0.02, help="weight decay of the logits' weights")
    parser.add_argument("--noise", type=float, default=0.3, help="standard deviation of noise on standardised features")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    shard = Shard(options.shards, "features")
    sounds = [entry.row for entry in Shard(options.shards, "waveforms").entries]
    classes = sorted({row.label for row in sounds if row.split == "train"} - {""})
    features, labels, _ = examples(shard, classes, "train", ("image", "clip"))
    sight = Sight(SightConfig(feature_dim=features.shape[1], n_classes=len(classes)))
    sight.mean.copy_(features.mean(0))
    sight.std.copy_(features.std(0) + 0.1 * features.std())
    seen = torch.bincount(labels, minlength=len(classes)) > 0
    fit(sight, features, labels, seen, options)
    record = {"classes": classes, "seen": [name for name, one in zip(classes, seen, strict=True) if one], "shard": shard.digest}
    for kind in ("image", "clip"):
        record[f"valid_{kind}"] = measure(sight, *examples(shard, classes, "valid", (kind,)))
        sys.stdout.write(f"valid, {kind}: " + ", ".join(f"{name} {value:.3f}" for name, value in record[f"valid_{kind}"].items()) + "\n")
    save_checkpoint(options.out / "checkpoint", "sight", "everyday", sight.config, sight.state_dict(), record, torch.float16)


def examples(
    shard: Shard, classes: list[str], split: str, kinds: tuple[str, ...]
) -> tuple[Float[Tensor, "n dim"], Int[Tensor, "n"], Int[Tensor, "n"]]:
    """Return features, class indices and item numbers of labelled images and of frames of clips."""
    features, labels, items = [], [], []
    for number, entry in enumerate(shard.entries):
        row = entry.row
        if row.split != split or row.kind not in kinds or row.label not in classes:
            continue
        own = dequantise(shard[number], row)
        if row.kind == "clip":
            own = own[np.linspace(0, len(own) - 1, min(CLIP_FRAMES, len(own))).astype(int)]
        features.append(torch.from_numpy(np.asarray(own, dtype=np.float32)))
        labels += [classes.index(row.label)] * len(own)
        items += [number] * len(own)
    return torch.cat(features), torch.tensor(labels), torch.tensor(items)


def fit(sight: Sight, features: Tensor, labels: Tensor, seen: Tensor, options: argparse.Namespace) -> None:
    """Fit with full-batch AdamW. The weight of a class is the square root of its number of examples."""
    counts = torch.bincount(labels, minlength=len(seen)).float()
    weights = counts.clamp(min=1).rsqrt()[labels]
    weight, bias = (torch.zeros_like(value, requires_grad=True) for value in (sight.weight, sight.bias))
    optimizer = torch.optim.AdamW([{"params": [weight], "weight_decay": options.decay}, {"params": [bias], "weight_decay": 0.0}], lr=0.01)
    inputs = (features - sight.mean) / sight.std
    hidden = torch.where(seen, 0.0, UNSEEN)
    target = F.one_hot(labels, len(seen)) * (1 - SMOOTHING) + SMOOTHING * seen / seen.sum()
    for iteration in range(ITERATIONS):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - iteration / ITERATIONS)
        noisy = inputs + options.noise * torch.randn_like(inputs)
        logits = F.linear(noisy, weight, bias + hidden).log_softmax(1).clamp(min=-50)
        loss = -(weights * (target * logits).sum(1)).sum() / weights.sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    sight.weight.copy_(weight.detach())
    sight.bias.copy_(bias.detach() + hidden)


@torch.no_grad()
def measure(sight: Sight, features: Tensor, labels: Tensor, items: Tensor) -> dict[str, float]:
    """Return top-1 and top-5 accuracy over images or clips, and their number. The logits of a clip's frames are averaged."""
    logits = sight(features)
    groups = [torch.nonzero(items == item).flatten() for item in items.unique()]
    ranks = [int((logits[rows].mean(0) > logits[rows].mean(0)[labels[rows[0]]]).sum()) for rows in groups]
    counted = Counter({"top1": sum(rank == 0 for rank in ranks), "top5": sum(rank < 5 for rank in ranks)})
    return {**{name: value / len(groups) for name, value in counted.items()}, "n": len(groups)}


if __name__ == "__main__":
    main()
