"""Build the classifier of `everyday` from the published weights of aisfx 0.1.2 (CC BY 4.0). Its classes are mean embeddings of recordings.

    python runs/everyday/listener.py checkpoint.pth work/shards work/everyday/listener

checkpoint.pth is in the folder aisfx/models of the wheel of aisfx 0.1.2 on PyPI. The shards must have `waveforms` from `unsilent data
extract`. Takes five minutes on one core. Prints the error of the input map and the accuracy on held-out sounds.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unsilent.checkpoints.store import save_checkpoint
from unsilent.clip import Clip
from unsilent.data.shards import Shard
from unsilent.models.listener import SHARPNESS, Listener, ListenerConfig
from unsilent.signal.mel import FLOOR_DB, RANGE_DB, log_mel01, stft

PEAK = 0.7  # peak of the network's input sounds
FEWEST, MOST = 5, 40  # recordings per class
LONGEST = 10.0  # maximum seconds of each recording
FITTED, FITTED_FRAMES = 400, 60  # number of recordings, and of frames per recording, for the fit of the input map
RIDGE = 3.0  # regularisation of the fit
CLIP = Clip()


def main() -> None:
    """Convert the weights, fit the input map, compute the class means, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    shard = Shard(options.shards, "waveforms")
    trained, held_out = {}, []
    for number, entry in enumerate(shard.entries):
        row = entry.row
        if row.label and row.split == "train":
            trained.setdefault(row.label, []).append(number)
        elif row.label and row.split == "valid" and row.kind == "sound":
            held_out.append((row.label, number))
    classes = sorted(name for name, numbers in trained.items() if len(numbers) >= FEWEST)
    listener = Listener(ListenerConfig(labels=len(classes))).eval().requires_grad_(False)
    convert(listener, options.weights)
    every = [number for numbers in trained.values() for number in numbers]
    fit_input(listener, [read(shard, every[i]) for i in np.random.default_rng(0).permutation(len(every))[:FITTED]])
    means = []
    for name in classes:
        chosen = trained[name][:: max(1, len(trained[name]) // MOST)]
        means.append(torch.cat([listener.embed(mel01(read(shard, number))) for number in chosen]).mean(0))
    listener.centre.copy_(torch.stack(means).mean(0))
    listener.fc.weight.copy_(SHARPNESS * F.normalize(torch.stack(means) - listener.centre, dim=1))
    listener.fc.bias.zero_()
    asked = [(label, number) for label, number in held_out if label in classes]
    ranks = [
        int((logits > logits[classes.index(label)]).sum()) for label, number in asked for logits in listener(mel01(read(shard, number)))
    ]
    valid = {"top1": float(np.mean(np.array(ranks) < 1)), "top5": float(np.mean(np.array(ranks) < 5)), "n": len(ranks)}
    sys.stdout.write(f"held-out sounds: {valid}, {len(classes)} classes\n")
    record = {"classes": classes, "valid": valid, "shards": shard.digest, "source": "aisfx 0.1.2, Ma and Lerch, CC BY 4.0"}
    save_checkpoint(options.out / "checkpoint", "listener", "everyday", listener.config, listener.state_dict(), record, torch.float16)


def convert(listener: Listener, weights: Path) -> None:
    """Copy the convolutions, with batch normalisation folded into them."""
    plain = [(np.dtype(float).type, "numpy.float64"), np.dtype, *(type(np.dtype(name)) for name in ("f4", "f8", "i8"))]
    with torch.serialization.safe_globals([*plain, (np._core.multiarray.scalar, "numpy.core.multiarray.scalar")]):
        saved = torch.load(weights, weights_only=True, map_location="cpu")[0]
    for number, block in enumerate(listener.blocks, start=1):
        for index, layer in enumerate(block, start=1):
            prefix = f"embedding_net.conv_block{number}."
            mean, variance, scale, bias = (saved[f"{prefix}bn{index}.{name}"] for name in ("running_mean", "running_var", "weight", "bias"))
            factor = scale / (variance + 1e-5).sqrt()
            layer.weight.copy_(saved[f"{prefix}conv{index}.weight"] * factor[:, None, None, None])
            layer.bias.copy_(bias - mean * factor)


def fit_input(listener: Listener, sounds: list[Float[np.ndarray, "samples"]]) -> None:
    """Fit the input map by ridge regression of the network's log band powers on unsilent's mels in dB, frame by frame."""
    xs, ys = [], []
    for waveform in sounds:
        given, wanted = mel01(waveform)[0] * RANGE_DB + FLOOR_DB, true_powers(waveform, listener.config.bands)
        chosen = np.random.default_rng(len(waveform)).permutation(min(given.shape[1], wanted.shape[1]))[:FITTED_FRAMES]
        xs.append((given / 10).T[chosen])
        ys.append(wanted.T[chosen])
    x, y = F.pad(torch.cat(xs), (0, 1), value=1.0).double(), torch.cat(ys).double()
    solved = torch.linalg.solve(x.T @ x + RIDGE * torch.eye(x.shape[1]).double(), x.T @ y)
    listener.to_bands.copy_(solved[:-1].T)
    listener.band_bias.copy_(solved[-1])
    sys.stdout.write(f"input map: {10 * (x @ solved - y).abs().mean():.2f} dB mean error over {len(x)} frames\n")


def true_powers(waveform: Float[np.ndarray, "samples"], bands: int) -> Float[Tensor, "bands frames"]:
    """Return log10 of the band powers that the network expects. A window of 1024 samples at 22.05 kHz equals its 2048 at 44.1 kHz."""
    spectrum = 4 * stft(torch.from_numpy(waveform)[None], CLIP)[0].abs().square()
    edges = 700 * (10 ** (np.linspace(0, 2595 * np.log10(1 + CLIP.sample_rate / 700), bands + 2) / 2595) - 1)
    bins = np.arange(CLIP.n_fft + 1) * CLIP.sample_rate / CLIP.n_fft
    rising, falling = (bins - edges[:-2, None]) / np.diff(edges)[:-1, None], (edges[2:, None] - bins) / np.diff(edges)[1:, None]
    filters = np.maximum(0, np.minimum(rising, falling))
    filters /= np.maximum(filters.sum(1, keepdims=True), 1e-9)
    return torch.log10(torch.from_numpy(filters[:, : CLIP.n_fft // 2 + 1]).float() @ spectrum + 1e-7)


def read(shard: Shard, number: int) -> Float[np.ndarray, "samples"]:
    """Read one recording, normalised to the peak `PEAK`."""
    waveform = shard[number][: round(LONGEST * CLIP.sample_rate)].astype(np.float32) / 32768
    return waveform / max(1e-4, np.abs(waveform).max()) * PEAK


def mel01(waveform: Float[np.ndarray, "samples"]) -> Float[Tensor, "1 mels frames"]:
    """Return the mel in [0, 1]."""
    return log_mel01(torch.from_numpy(waveform)[None], CLIP)


if __name__ == "__main__":
    main()
