"""Reconstruction error of codebook and vocoder on held-out sounds, with two baselines.

    python benchmarks/reconstruction.py FOLDER [--model everyday] [--source ESC-10] [--split valid] [--json]

FOLDER has a `sounds.csv` for `unsilent data manifest`. Every sound is normalised to -23 LUFS. Rows of the table:

- `codebook + vocoder`: `unsilent reconstruct`
- `vocoder`: from the original mel; the difference to the row above is due to the codes
- `griffin-lim`: 60 iterations of fast Griffin-Lim from the original mel
- `mean spectrum`: Griffin-Lim from the mel's mean over time, which keeps the spectrum but no timing

Columns: mean absolute difference of mels in dB over bands and frames, and the multi-resolution STFT loss of the training (spectral
convergence plus log-magnitude difference); means over sounds with their standard error.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch

import unsilent
from unsilent.codec.stitching import vocode
from unsilent.media.audio import read_audio
from unsilent.signal.griffin_lim import vocode as griffin_lim
from unsilent.signal.loudness import normalise_loudness
from unsilent.signal.mel import RANGE_DB, log_mel01
from unsilent.train.losses import stft_loss

ITERATIONS = 60  # iterations of Griffin-Lim
METHODS = ("codebook + vocoder", "vocoder", "griffin-lim", "mean spectrum")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", default="everyday")
    parser.add_argument("--source", default="ESC-10")
    parser.add_argument("--split", default="valid")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    options = parser.parse_args()
    pipeline = unsilent.load(options.model, device="cpu", precision="float32")
    with (options.folder / "sounds.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["source"], row["split"]) == (options.source, options.split)]
    scores = {method: [] for method in METHODS}
    for row in rows:
        waveform = read_audio(options.folder / row["path"], pipeline.clip.sample_rate)
        waveform = normalise_loudness(waveform, pipeline.clip.sample_rate)
        whole = len(waveform) // pipeline.clip.column_samples * pipeline.clip.column_samples
        if not whole:
            continue  # shorter than one code column
        target = torch.from_numpy(waveform[:whole])
        for method, made in reconstructions(pipeline, target).items():
            scores[method].append(distance(made, target, pipeline.clip))
    report(options, {method: np.array(values) for method, values in scores.items()}, len(scores[METHODS[0]]))


@torch.inference_mode()
def reconstructions(pipeline: "unsilent.Pipeline", target: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the waveform of each method."""
    clip, vocoder = pipeline.clip, pipeline.parts.vocoder
    mel01 = log_mel01(target[None], clip)
    average = mel01.mean(2, keepdim=True).expand_as(mel01).contiguous()
    return {
        "codebook + vocoder": torch.from_numpy(pipeline.reconstruct(target.numpy())),
        "vocoder": vocode(vocoder, mel01[0], vocoder.context_frames, clip.hop),
        "griffin-lim": griffin_lim(mel01, clip, ITERATIONS)[0],
        "mean spectrum": griffin_lim(average, clip, ITERATIONS)[0],
    }


def distance(made: torch.Tensor, target: torch.Tensor, clip: "unsilent.Clip") -> tuple[float, float]:
    """Return the mean absolute mel difference in dB and the multi-resolution STFT loss."""
    mels = [log_mel01(waveform[None], clip) for waveform in (made, target)]
    return (mels[0] - mels[1]).abs().mean().item() * RANGE_DB, sum(stft_loss(made[None], target[None]).values()).item()


def report(options: argparse.Namespace, scores: dict[str, np.ndarray], n_sounds: int) -> None:
    """Print the results as a table or as JSON."""
    means = {method: values.mean(0) for method, values in scores.items()}
    errors = {method: values.std(0, ddof=1) / np.sqrt(n_sounds) for method, values in scores.items()}
    if options.json:
        print(json.dumps({"n_sounds": n_sounds, **{method: mean.round(4).tolist() for method, mean in means.items()}}))
        return
    print(f"{options.model}: {n_sounds} sounds of {options.source}, split {options.split}")
    print(f"{'':<20} {'mel L1 (dB)':>16} {'STFT distance':>18}")
    for method in METHODS:
        (mel, stft), (mel_error, stft_error) = means[method], errors[method]
        print(f"{method:<20} {mel:9.2f} ± {mel_error:4.2f} {stft:11.3f} ± {stft_error:5.3f}")


if __name__ == "__main__":
    main()
