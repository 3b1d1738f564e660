"""Training of the codebook: paper section 3.1 with all its losses, of which a run chooses."""

from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn

from unsilent.checkpoints.store import load_checkpoint, read_config, save_checkpoint
from unsilent.data.datasets import WaveformCrops
from unsilent.errors import ParameterError
from unsilent.losses import adaptive_weight, codebook_loss, hinge_discriminator_loss, hinge_generator_loss, vqgan_loss
from unsilent.models.codebook import Codebook, CodebookConfig, Reconstruction
from unsilent.models.discriminators import PatchDiscriminator, PatchDiscriminatorConfig
from unsilent.models.perceptual import Perceptual
from unsilent.signal.mel import from_mel01, log_mel01
from unsilent.train.config import CodebookRun
from unsilent.train.steps import judging, update


class CodebookTrainer:
    """Owns the codebook, what judges it, their optimizers and their data.

    Codes that nothing used for `run.revive_every` steps are moved onto latents of the current batch; the first such move, right at the
    start, also serves as a data-driven initialisation.

    Source:
        Paper section 3.1 and the released VQLPAPSWithDiscriminator. Differs: the perceptual distance is that of trained weights or there
        is none; the discriminator learns from the reconstructions that the codebook was judged by, not from anew computed ones.
    """

    def __init__(self, run: CodebookRun, config: CodebookConfig, fabric: lightning_fabric.Fabric) -> None:
        self.run, self.config = run, config
        clip = config.clip
        self.crops = WaveformCrops(run.shards, "train", run.crop_columns * clip.column_samples, gain_db=run.gain_db)
        self.distance = None if run.perceptual is None else load_distance(run.perceptual, clip.mels).to(fabric.device)
        self.module, optimizer = fabric.setup(*self._with_optimizer(Codebook(config)))
        self.module.mark_forward_method("latents")  # reviving codes looks at latents outside of a training step
        self.optimizers = [optimizer]
        self.uses = torch.zeros(config.n_codes, device=fabric.device)  # since codes were last revived
        self.memory = {"uses": self.uses}
        self.others: dict[str, nn.Module] = {}
        if run.adversarial_weight:  # built after the codebook, which so begins with the same weights as without
            judge = PatchDiscriminator(PatchDiscriminatorConfig(width=run.discriminator_width))
            with torch.no_grad():  # crops that are too small for it are refused now rather than at `adversarial_start`
                judge.eval()(torch.zeros(1, clip.mels, run.crop_columns * clip.downsampling))
            judge.train()
            self.others["discriminator"], optimizer = fabric.setup(*self._with_optimizer(judge))
            self.optimizers.append(optimizer)
            self.module.decoder.conv_out.register_forward_pre_hook(self._remember)

    def _with_optimizer(self, module: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
        return module, torch.optim.Adam(module.parameters(), lr=self.run.learning_rate, betas=self.run.betas)

    def step(self, fabric: lightning_fabric.Fabric, rng: np.random.Generator, step: int) -> dict[str, Tensor]:
        """One step on one batch of crops; with the discriminator, one of each network."""
        waveform = self.crops.batch(self.run.batch, rng).to(fabric.device)
        mel = from_mel01(log_mel01(waveform, self.config.clip))
        if step == 0:
            self._revive(fabric, mel, rng)
        result = self.module(mel)
        is_judged = bool(self.others) and step >= self.run.adversarial_start
        losses = self._losses(fabric, mel, result, is_judged)
        fabric.backward(sum(losses.values()))
        update(fabric, self.module, self.optimizers[0], self.run.clip_norm)
        if is_judged:
            losses["discriminator"] = self._discriminate(fabric, mel, result.mel.detach())
        counts = fabric.all_reduce(torch.bincount(result.quantized.grid.flatten(), minlength=self.config.n_codes).float(), reduce_op="sum")
        self.uses += counts
        losses["codes_used"] = (self.uses > 0).float().mean()
        losses["perplexity"] = torch.special.entr(counts / counts.sum()).sum().exp()  # codes in even use that would say as much
        if (step + 1) % self.run.revive_every == 0 and step + 1 < self.run.steps - self.run.decay_steps:
            self._revive(fabric, mel, rng)
        return losses

    def _losses(self, fabric: lightning_fabric.Fabric, mel: Tensor, result: Reconstruction, is_judged: bool) -> dict[str, Tensor]:
        """The terms of this step, weighted."""
        run = self.run
        result = result._replace(mel=result.mel.view_as(result.mel))  # where `_adaptive` may ask for gradients, unseen by the engine
        distance = mel.new_zeros(len(mel)) if self.distance is None else self.distance(mel, result.mel)
        if not is_judged:
            losses = codebook_loss(mel, result, run.beta, run.beta_on_codebook)
            return losses if self.distance is None else losses | {"perceptual": run.perceptual_weight * distance.mean()}
        with judging(fabric, self.others["discriminator"]) as discriminator:
            fake = discriminator(result.mel).float()
        weight = run.adversarial_weight * self._adaptive(fabric, mel, result, distance, fake)
        losses = vqgan_loss(mel, result, distance, fake, weight, run.perceptual_weight, run.beta, run.beta_on_codebook)
        return losses if self.distance is not None else {name: value for name, value in losses.items() if name != "perceptual"}

    def _adaptive(
        self, fabric: lightning_fabric.Fabric, mel: Tensor, result: Reconstruction, distance: Tensor, fake: Tensor
    ) -> float | Tensor:
        """How much harder the discriminator must pull at the decoder's last layer to pull as hard as the other terms, within bounds."""
        lowest, highest = self.run.adaptive_weight
        if lowest == highest:
            return lowest
        likelihood = (mel - result.mel).abs().mean() + self.run.perceptual_weight * distance.mean()
        last, pulls = self.module.decoder.conv_out, []
        for term in (likelihood, hinge_generator_loss(fake)):
            (slope,) = torch.autograd.grad(term, result.mel, retain_graph=True)
            # The last step back by hand: the engine wants no walk through its networks but that of the loss.
            pulls.append(torch.nn.grad.conv2d_weight(self.drawn, last.weight.shape, slope.unsqueeze(1), padding=last.padding))
        return fabric.all_reduce(adaptive_weight(*pulls, lowest, highest), reduce_op="mean")  # one loss for all processes

    def _remember(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        self.drawn = inputs[0].detach().float()  # what went into the decoder's last convolution

    def _discriminate(self, fabric: lightning_fabric.Fabric, mel: Tensor, made: Tensor) -> Tensor:
        """One step of the discriminator; its loss."""
        discriminator = self.others["discriminator"]
        loss = hinge_discriminator_loss(discriminator(mel), discriminator(made))
        fabric.backward(loss)
        update(fabric, discriminator, self.optimizers[1], self.run.clip_norm)
        return loss.detach()

    @torch.no_grad()
    def _revive(self, fabric: lightning_fabric.Fabric, mel: Tensor, rng: np.random.Generator) -> None:
        unused = torch.nonzero(self.uses == 0).flatten()
        latents = self.module.latents(mel).movedim(1, -1).flatten(0, 2).float()
        chosen = torch.from_numpy(rng.integers(len(latents), size=len(unused))).to(fabric.device)
        vectors = fabric.broadcast(latents[chosen])  # every process must move the same codes to the same places
        self.module.quantize.replace(unused, vectors)
        self.uses.zero_()

    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write the codebook's checkpoint folder."""
        save_checkpoint(folder, "codebook", self.run.preset, self.config, weights, record)


def load_distance(folder: Path, mels: int) -> Perceptual:
    """The perceptual distance of a checkpoint folder: a trained VGGish-ish, or a distance that was made from one.

    Raises:
        CheckpointError: if there is no such checkpoint.
        ParameterError: if it has been trained on mels of other sizes.
    """
    if read_config(folder)["kind"] == "vggishish":
        distance = Perceptual.from_classifier(load_checkpoint(folder, "vggishish"))
    else:
        distance = load_checkpoint(folder, "perceptual")
    if distance.config.bands.mels != mels:
        raise ParameterError(f"the distance {folder} reads mels of {distance.config.bands.mels} bands, the codebook makes {mels}.")
    return distance
