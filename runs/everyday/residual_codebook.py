"""Train a residual codebook: fit PCA and codes, then train the decoder. The same command resumes an interrupted run.

    python runs/everyday/residual_codebook.py work/shards work/everyday/residual-codebook

SHARDS has `waveforms`, from `unsilent data extract`. OUT gets `last.pt` to resume from, and `checkpoint/`
for `unsilent reconstruct --model`.
The fit takes 6 CPU minutes, a training step 0.4 s.

Encoder and codes stay as fitted: when trained jointly, the encoder moved faster than the deep codes could follow (LOG.md).
"""

import argparse
import math
import sys
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unsilent.checkpoints.store import save_checkpoint
from unsilent.data.augmentation import Augmentation
from unsilent.data.datasets import open_crops
from unsilent.models.configs import ResidualCodebookConfig
from unsilent.models.residual_codebook import ResidualCodebook, patch_power, texture
from unsilent.signal.mel import from_mel01, log_mel01
from unsilent.train.residual_codes import TEXTURE_FRAMES, columns_of, fit

UNIT = 5.0  # mels in [-1, 1] times this are tens of decibels
SAVE_SECONDS = 240.0


def main() -> None:
    """Fit or resume, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--columns", type=int, default=110_000, help="columns that PCA and codes are fitted to")
    parser.add_argument("--steps", type=int, default=1800, help="training steps of the decoder")
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--crop-columns", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=8e-4)
    parser.add_argument("--strength-weight", type=float, default=3.0, help="of the loss on local standard deviations")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    config = ResidualCodebookConfig()
    augmentation = Augmentation(gain_db=(-6.0, 4.0), speed=(0.85, 1.18), mix_share=0.15)
    crops = open_crops(options.shards, "train", options.crop_columns * config.clip.column_samples, augmentation)

    def mels(n: int, *place: int) -> Float[Tensor, "n mels frames"]:
        rngs = [np.random.default_rng((options.seed, *place, item)) for item in range(n)]
        return from_mel01(log_mel01(crops.batch(rngs).sound, config.clip))

    codebook = ResidualCodebook(config)
    state = options.out / "last.pt"
    average, done = {}, 0
    if state.exists():
        saved = torch.load(state, weights_only=True)
        codebook.load_state_dict(saved["weights"])
        average, done = saved["average"], saved["done"]
    else:
        n_batches = -(-options.columns // (64 * options.crop_columns))
        for level, left in enumerate(fit(codebook, torch.cat([columns_of(mels(64, 0, batch), config) for batch in range(n_batches)]))):
            sys.stdout.write(f"level {level + 1}: {left:.4f} of the variance left\n")
        average = {name: value.clone() for name, value in codebook.state_dict().items()}
    weights = list(codebook.decoder.parameters())
    optimizer = torch.optim.AdamW(weights, options.learning_rate, betas=(0.85, 0.99), weight_decay=0.01)
    if state.exists():
        optimizer.load_state_dict(saved["optimizer"])
    noise = texture(config.clip, 0, TEXTURE_FRAMES)
    last_save = -SAVE_SECONDS  # the first step saves the fit
    for step in range(done, options.steps):
        rng = np.random.default_rng((options.seed, step))
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * schedule(step, options.steps)
        losses = decoder_losses(codebook, mels(options.batch, 1, step), noise, rng, options.strength_weight)
        optimizer.zero_grad()
        sum(losses.values()).backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        for name, value in codebook.state_dict().items():
            average[name].lerp_(value, 1 - min(0.998, (1 + step) / (10 + step)))
        if step % 25 == 24:
            sys.stdout.write(f"{step + 1} " + " ".join(f"{name} {loss.item():.3f}" for name, loss in losses.items()) + "\n")
        if step + 1 == options.steps or time.monotonic() - last_save > SAVE_SECONDS:
            options.out.mkdir(parents=True, exist_ok=True)
            content = {"weights": codebook.state_dict(), "average": average, "optimizer": optimizer.state_dict(), "done": step + 1}
            torch.save(content, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)
            last_save = time.monotonic()
    record = {"steps": options.steps, "seed": options.seed, "shards": crops.shard.digest}
    save_checkpoint(options.out / "checkpoint", "residual_codebook", "everyday", config, average, record, torch.float16)


def decoder_losses(
    codebook: ResidualCodebook,
    mel: Float[Tensor, "batch mels frames"],
    noise: Float[Tensor, "mels frames"],
    rng: np.random.Generator,
    weight: float,
) -> dict[str, Tensor]:
    """Losses of one step: envelope errors at several scales, and local standard deviations of the result with its texture.

    Half of the steps use all levels, the others a random number of them, so that a coarser code decodes well too.
    """
    levels = codebook.config.levels
    depth = levels if rng.random() < 0.5 else int(min(levels, np.exp(rng.uniform(np.log(1.5), np.log(levels + 1)))))
    starts = rng.integers(0, noise.shape[1] - mel.shape[2], (2, len(mel)))
    draws = [torch.stack([noise[:, start : start + mel.shape[2]] for start in row]) for row in starts]
    envelope, strength = codebook.decoder.parts(codebook.quantize.lookup(codebook.encode(mel, depth)), draws[0])
    # the strength gets no gradient from distances, because no texture at all would be nearest
    losses = distances(envelope + strength.detach() * draws[0], mel, rng)
    made = [envelope + strength * drawn for drawn in draws]
    deviations = zip(*(local_deviations(sound) for sound in (*made, mel)), strict=True)
    # the product of two draws' errors is an unbiased estimate of the squared error of the mean; any other distance lets the strength fade
    losses["deviation"] = weight * sum(((one - real) * (other - real)).mean() for one, other, real in deviations)
    losses["range"] = 10 * (F.relu(made[0] - 1.2) + F.relu(-1.2 - made[0])).mean()
    return losses


def distances(made: Tensor, real: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
    """Distances at raw scale, of power over 4 and 16 frames, over 8 bands, and over the whole crop."""
    shift = rng.integers(0, 4, 2)
    by_4, real_by_4 = patch_power(made, 4), patch_power(real, 4)
    n = by_4.shape[2]
    return {
        "raw": 0.5 * tile_norm((made - real) * UNIT, 4, 4, shift),
        "by_4": tile_norm((by_4 - real_by_4) * UNIT, 4, 1, shift),
        "by_16": 0.5 * tile_norm((patch_power(by_4, 4) - patch_power(real_by_4, 4)) * UNIT, 2, 1, shift),
        "by_band": 0.5 * tile_norm((pool_bands(by_4) - pool_bands(real_by_4)) * UNIT, 1, 1, shift),
        "whole": 0.5 * tile_norm((patch_power(by_4, n) - patch_power(real_by_4, n)) * UNIT, 1, 1, shift),
    }


def pool_bands(mel: Float[Tensor, "batch mels positions"]) -> Float[Tensor, "batch bands pairs"]:
    """Mean power over 4 mel bands and 2 positions."""
    return patch_power(patch_power(mel, 2).transpose(1, 2), 4).transpose(1, 2)


def tile_norm(error: Float[Tensor, "batch bands positions"], bands: int, positions: int, shift: np.ndarray) -> Float[Tensor, ""]:
    """Mean over tiles of the root mean square error, so that errors next to each other count together; tiles start at `shift`."""
    top, left = shift[0] % bands, shift[1] % positions
    error = error[:, top:, left:]
    error = error[:, : error.shape[1] // bands * bands, : error.shape[2] // positions * positions]
    tiles = error.unflatten(2, (-1, positions)).unflatten(1, (-1, bands)).square().mean((2, 4))
    return (tiles + 1e-6).sqrt().mean()


def local_deviations(mel: Float[Tensor, "batch mels frames"]) -> list[Tensor]:
    """Logarithms of local standard deviations of what changes from frame to frame, and from band to band."""
    in_time = mel[:, :, 3:-3] - (mel[:, :, 6:] + mel[:, :, :-6]) / 2
    in_frequency = mel[:, 2:-2] - (mel[:, 4:] + mel[:, :-4]) / 2
    pooled = (F.avg_pool2d(in_time.square(), (3, 12), (2, 6)), F.avg_pool2d(in_frequency.square(), (4, 8), (4, 4)))
    return [torch.log((power + 1e-5).sqrt() + 0.015) for power in pooled]


def schedule(step: int, steps: int) -> float:
    """Learning rate factor: linear warm-up over 150 steps, constant for a third, then a cosine to nearly 0."""
    progress = step / steps
    decay = 1.0 if progress < 0.35 else 0.5 * (1 + math.cos(math.pi * (progress - 0.35) / 0.65)) + 0.005
    return min(1.0, (step + 1) / 150) * decay


if __name__ == "__main__":
    main()
