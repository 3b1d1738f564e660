"""Does generated sound fit its picture, and is it more than noise?

    python benchmarks/relevance.py FOLDER [--model everyday] [--takes 2] [--seed 0] [--json]

FOLDER holds `sounds.csv` and `images.csv`. A judge that no training has seen decides what a sound is: a linear discriminant over mean and
standard deviation of every mel band (level removed), fitted on the training sounds. It judges

- `real`: held-out sounds, the ceiling
- `generated`: 9.8 s made for every held-out picture held still
- `shuffled`: the same sounds against the labels of other pictures, the floor (the picture made no difference)

Only labels with at least 8 training sounds, and held-out sounds and pictures, take part. Printed are top-1 and top-3 accuracy, and how
tonal and how lively the sounds are: spectral flatness (1 is white noise) and the standard deviation over time of a frame's level in dB.
"""

import argparse
import csv
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import unsilent
from unsilent.features import extract
from unsilent.media.audio import read_audio
from unsilent.models.code_order import to_grid
from unsilent.sampling import sample_codes
from unsilent.signal.loudness import normalise_loudness
from unsilent.signal.mel import RANGE_DB, log_mel01, stft, to_mel01
from unsilent.stitching import decode_grid, vocode

MIN_TRAIN = 8
MAX_PICTURES = 12  # per label


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--takes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    pipeline = unsilent.load(options.model, device="cpu", precision="float32")
    train, held_out = (read_sounds(options.folder, pipeline.clip, split) for split in ("train", "valid"))
    pictures = read_table(options.folder / "images.csv", "valid")
    labels = sorted(label for label in train if len(train[label]) >= MIN_TRAIN and held_out[label] and pictures[label])
    judge = Judge([(describe(wave, pipeline.clip), i) for i, label in enumerate(labels) for wave in train[label]], len(labels))
    real = [(wave, i) for i, label in enumerate(labels) for wave in held_out[label]]
    made = []
    for i, label in enumerate(labels):
        for name in pictures[label][:MAX_PICTURES]:
            made += [(wave, i) for wave in generate(pipeline, options.folder / name, options.takes, options.seed)]
    others = np.roll([i for _, i in made], len(made) // 2)  # sounds stand label by label, so half way round is another label
    table = {
        "real": score(judge, real, pipeline.clip),
        "generated": score(judge, made, pipeline.clip),
        "shuffled": score(judge, [(wave, int(i)) for (wave, _), i in zip(made, others, strict=True)], pipeline.clip),
    }
    if options.json:
        print(json.dumps({"labels": labels, **table}))
        return
    print(f"{options.model}: {len(labels)} labels: {', '.join(labels)}")
    print(f"{'':<10} {'sounds':>7} {'top-1':>7} {'top-3':>7} {'flatness':>9} {'liveliness (dB)':>16}")
    for name, row in table.items():
        print(f"{name:<10} {row['sounds']:7d} {row['top1']:7.1%} {row['top3']:7.1%} {row['flatness']:9.3f} {row['liveliness_db']:16.1f}")


def read_table(path: Path, split: str) -> dict[str, list[str]]:
    """Paths of a split by label."""
    found = defaultdict(list)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["split"] == split:
                found[row["label"]].append(row["path"])
    return found


def read_sounds(folder: Path, clip: "unsilent.Clip", split: str) -> dict[str, list[np.ndarray]]:
    """Waveforms of a split by label, all at one loudness."""
    found = defaultdict(list)
    for label, paths in read_table(folder / "sounds.csv", split).items():
        for path in paths:
            waveform = normalise_loudness(read_audio(folder / path, clip.sample_rate), clip.sample_rate)
            if len(waveform) > clip.column_samples:
                found[label].append(waveform)
    return found


@torch.inference_mode()
def generate(pipeline: "unsilent.Pipeline", picture: Path, takes: int, seed: int) -> list[np.ndarray]:
    """Sounds of one clip for a picture held still."""
    parts, clip = pipeline.parts, pipeline.clip
    frame = np.asarray(Image.open(picture).convert("RGB"))
    feature = extract([frame], parts.backbone, parts.backbone_row)
    condition = parts.sampler.condition(feature[None].expand(1, parts.sampler.config.condition.n_features, -1))
    chosen = {"top_k": parts.top_k, "temperature": parts.temperature, "guidance": parts.guidance}
    sequences = sample_codes(parts.sampler, lambda window: condition, clip.columns, seed=seed, takes=takes, **chosen)
    waveforms = []
    for grid in to_grid(sequences, clip.rows):
        mel01 = to_mel01(decode_grid(parts.codebook, grid))
        waveform = vocode(parts.vocoder, mel01, parts.vocoder.context_frames, clip.hop).numpy()
        waveforms.append(normalise_loudness(waveform, clip.sample_rate))
    return waveforms


def describe(waveform: np.ndarray, clip: "unsilent.Clip") -> np.ndarray:
    """Mean and standard deviation of every mel band in dB, without the overall level."""
    mel = log_mel01(torch.from_numpy(waveform)[None], clip)[0].numpy() * RANGE_DB
    mel = mel[:, mel.mean(0) > mel.mean(0).max() - 40]  # pauses say nothing about what it is
    return np.concatenate([mel.mean(1) - mel.mean(), mel.std(1)])


class Judge:
    """Linear discriminant analysis with a shrunken shared covariance."""

    def __init__(self, examples: list[tuple[np.ndarray, int]], n_labels: int) -> None:
        features, labels = np.stack([x for x, _ in examples]), np.array([i for _, i in examples])
        self.means = np.stack([features[labels == i].mean(0) for i in range(n_labels)])
        covariance = np.cov((features - self.means[labels]).T)
        self.precision = np.linalg.inv(0.9 * covariance + 0.1 * np.trace(covariance) / len(covariance) * np.eye(len(covariance)))

    def ranks(self, features: np.ndarray) -> np.ndarray:
        """Labels, the likeliest first."""
        apart = features - self.means
        return np.einsum("ld,de,le->l", apart, self.precision, apart).argsort()


def score(judge: Judge, sounds: list[tuple[np.ndarray, int]], clip: "unsilent.Clip") -> dict[str, float]:
    """Accuracies, and the mean flatness and liveliness."""
    ranks = [(judge.ranks(describe(wave, clip)), label) for wave, label in sounds]
    flatness, liveliness = zip(*(texture(wave, clip) for wave, _ in sounds), strict=True)
    return {
        "sounds": len(sounds),
        "top1": float(np.mean([order[0] == label for order, label in ranks])),
        "top3": float(np.mean([label in order[:3] for order, label in ranks])),
        "flatness": float(np.mean(flatness)),
        "liveliness_db": float(np.mean(liveliness)),
    }


def texture(waveform: np.ndarray, clip: "unsilent.Clip") -> tuple[float, float]:
    """Spectral flatness of the average power spectrum, and the spread of frame levels in dB."""
    power = stft(torch.from_numpy(waveform)[None], clip).abs().square()[0].numpy() + 1e-10
    average = power.mean(1)
    levels = 10 * np.log10(power.sum(0))
    return float(np.exp(np.log(average).mean()) / average.mean()), float(levels[levels > levels.max() - 60].std())


if __name__ == "__main__":
    main()
