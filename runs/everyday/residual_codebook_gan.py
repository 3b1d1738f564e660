"""Train the decoder of a residual codebook further, against a discriminator. The same command resumes an interrupted run.

    python runs/everyday/residual_codebook_gan.py work/shards work/everyday/codebook work/everyday/codebook-gan

Starts from IN/checkpoint; encoder and codes stay. OUT gets `last.pt` to resume from, and `checkpoint/`. A step takes 1.1 s on one core.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import residual_codebook as first_stage
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from unsilent.checkpoints.store import load_checkpoint, save_checkpoint
from unsilent.data.augmentation import Augmentation
from unsilent.data.datasets import open_crops
from unsilent.models.residual_codebook import ResidualCodebook, texture
from unsilent.signal.mel import from_mel01, log_mel01
from unsilent.train.residual_codes import TEXTURE_FRAMES

DEPTHS = (8, 8, 12, 16)  # levels decoded in a step
ADVERSARIAL, MATCHING, DEVIATION, RAW = 0.15, 0.2, 2.0, 0.3  # weights of losses; RAW scales the distance frame by frame
WARM_UP = 100  # steps until the discriminator counts in full


class Discriminator(nn.Module):
    """PatchGAN of mels, given the linear decoding of the same codes and the place of each band."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        sizes = [(3, 1, (3, 4), (1, 2)), (1, 2, (4, 4), (2, 2)), (2, 3, (4, 4), (2, 2)), (3, 4, (4, 3), (2, 1))]
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(inputs if not number else inputs * width, outputs * width, kernel, stride, padding=1))
            for number, (inputs, outputs, kernel, stride) in enumerate(sizes)
        )
        self.out = nn.Conv2d(4 * width, 1, 3, padding=1)

    def forward(self, mel: Float[Tensor, "batch mels frames"], envelope: Float[Tensor, "batch mels frames"]) -> tuple[Tensor, list[Tensor]]:
        """Logits of patches, positive for real, and the feature maps."""
        bands = torch.linspace(-1, 1, mel.shape[1])[:, None].expand_as(mel)
        x, maps = torch.stack([3 * mel, 3 * envelope, bands], dim=1), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            maps.append(x)
        return self.out(x), maps


def main() -> None:
    """Resume or begin, train, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("start", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=1150)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop-columns", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(options.seed)
    codebook: ResidualCodebook = load_checkpoint(options.start / "checkpoint", "residual_codebook").requires_grad_(True)
    nn.init.normal_(codebook.decoder.grain.weight, std=0.01)
    config, discriminator = codebook.config, Discriminator()
    optimizers = [torch.optim.AdamW(part.parameters(), options.learning_rate, (0.8, 0.99)) for part in (codebook.decoder, discriminator)]
    average, done, state = {name: value.clone() for name, value in codebook.state_dict().items()}, 0, options.out / "last.pt"
    if state.exists():
        saved = torch.load(state, weights_only=True)
        codebook.load_state_dict(saved["weights"])
        discriminator.load_state_dict(saved["discriminator"])
        average, done = saved["average"], saved["done"]
        for optimizer, content in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(content)
    augmentation = Augmentation(gain_db=(-6.0, 4.0), speed=(0.85, 1.18), mix_share=0.15)
    crops = open_crops(options.shards, "train", options.crop_columns * config.clip.column_samples, augmentation)
    noise, last_save = texture(config.clip, 0, TEXTURE_FRAMES), time.monotonic()
    for step in range(done, options.steps):
        rngs = [np.random.default_rng((options.seed, step, item)) for item in range(options.batch)]
        mel = from_mel01(log_mel01(crops.batch(rngs).sound, config.clip))
        optimizers[0].param_groups[0]["lr"] = options.learning_rate * min(1.0, (step + 1) / 50)
        losses = train_step(codebook, discriminator, optimizers, mel, noise, np.random.default_rng((options.seed, step)), step)
        for name, value in codebook.state_dict().items():
            average[name].lerp_(value, 1 - min(0.995, (1 + step) / (10 + step)))
        if step % 25 == 24:
            sys.stdout.write(f"{step + 1} " + " ".join(f"{name} {loss:.3f}" for name, loss in losses.items()) + "\n")
        if step + 1 == options.steps or time.monotonic() - last_save > first_stage.SAVE_SECONDS:
            content = {"weights": codebook.state_dict(), "discriminator": discriminator.state_dict(), "average": average, "done": step + 1}
            options.out.mkdir(parents=True, exist_ok=True)
            torch.save(content | {"optimizers": [one.state_dict() for one in optimizers]}, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)
            last_save = time.monotonic()
    record = {"steps": options.steps, "seed": options.seed, "shards": crops.shard.digest}
    save_checkpoint(options.out / "checkpoint", "residual_codebook", "everyday", config, average, record, torch.float16)


def train_step(
    codebook: ResidualCodebook,
    discriminator: Discriminator,
    optimizers: list[torch.optim.Optimizer],
    mel: Float[Tensor, "batch mels frames"],
    noise: Float[Tensor, "mels frames"],
    rng: np.random.Generator,
    step: int,
) -> dict[str, float]:
    """One step of discriminator and decoder; their losses."""
    config, frames = codebook.config, mel.shape[2]
    with torch.no_grad():
        latents = codebook.quantize.lookup(codebook.encode(mel, DEPTHS[rng.integers(len(DEPTHS))]))
        columns = codebook.decoder.linear(latents.transpose(1, 2)).unflatten(2, (config.clip.mels, -1))
        given = columns.transpose(1, 2).flatten(2).repeat_interleave(config.patch, 2)
    starts = rng.integers(0, noise.shape[1] - frames, (2, len(mel)))
    draws = [torch.stack([noise[:, start : start + frames] for start in row]) for row in starts]
    envelope, strength = codebook.decoder.parts(latents, draws[0])
    made = envelope + strength * draws[0]
    hinge = F.relu(1 - discriminator(mel, given)[0]).mean() + F.relu(1 + discriminator(made.detach(), given)[0]).mean()
    optimizers[1].zero_grad()
    hinge.backward()
    optimizers[1].step()
    discriminator.requires_grad_(False)
    losses = first_stage.distances(envelope + strength.detach() * draws[0], mel, rng)
    losses["raw"] = RAW * losses["raw"]
    logits, maps = discriminator(made, given)
    real_maps, warm = discriminator(mel, given)[1], min(1.0, step / WARM_UP)
    losses["adversarial"] = -ADVERSARIAL * warm * logits.mean()
    losses["matching"] = MATCHING * warm * sum((one - other).abs().mean() for one, other in zip(maps, real_maps, strict=True)) / len(maps)
    sounds = (made, envelope + strength * draws[1], mel)
    deviations = zip(*(first_stage.local_deviations(sound) for sound in sounds), strict=True)
    losses["deviation"] = DEVIATION * sum(((one - real) * (other - real)).mean() for one, other, real in deviations)
    losses["range"] = 10 * (F.relu(made - 1.2) + F.relu(-1.2 - made)).mean()
    optimizers[0].zero_grad()
    sum(losses.values()).backward()
    nn.utils.clip_grad_norm_(codebook.decoder.parameters(), 1.0)
    optimizers[0].step()
    discriminator.requires_grad_(True)
    return {"discriminator": hinge.item(), **{name: loss.item() for name, loss in losses.items()}}


if __name__ == "__main__":
    main()
