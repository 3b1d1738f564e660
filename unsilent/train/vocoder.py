"""Training of both vocoders, MelGAN (paper section 6.1.5) and Vocos, with spectral losses, MelGAN's discriminator, or both."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unsilent.checkpoints.store import save_checkpoint
from unsilent.clip import Clip
from unsilent.data.datasets import Crops, WaveformCrops
from unsilent.models.configs import MelGANConfig, VocosConfig
from unsilent.models.discriminators import MelGANDiscriminator, MelGANDiscriminatorConfig
from unsilent.models.melgan import MelGAN
from unsilent.models.vocos import Vocos
from unsilent.signal.mel import log_mel01
from unsilent.train.config import VocoderRun
from unsilent.train.losses import mel_loss, melgan_discriminator_loss, melgan_generator_loss, stft_loss
from unsilent.train.report import Examples
from unsilent.train.state import load_initial
from unsilent.train.steps import StepContext, frozen, mean_metrics
from unsilent.train.trainer import StepResult, Trainer


class VocoderTrainer(Trainer):
    """Trains a vocoder, and a discriminator if the run has one.

    Source:
        The order of the two steps is that of the MelGAN authors' train.py: first the discriminator is trained on detached waveforms, then
        the vocoder with the updated discriminator. Feature maps of the real sound are from before the update.
    """

    def __init__(self, run: VocoderRun, config: MelGANConfig | VocosConfig, fabric: lightning_fabric.Fabric) -> None:
        self.run, self.config = run, config
        self.clip = config.clip if isinstance(config, VocosConfig) else Clip()  # MelGAN is only for the paper's mels
        samples = run.crop_frames * self.clip.hop
        self.crops = WaveformCrops(run.shards, "train", samples, run.min_sample_rate, run.augmentation, run.peak)
        self.valid = WaveformCrops(run.shards, "valid", samples, run.min_sample_rate) if run.valid_every else None
        self.kind = "vocos" if isinstance(config, VocosConfig) else "melgan"
        self.forward_arguments = {"iterations": 0} if self.kind == "vocos" else {}  # training does not refine
        module = load_initial(run, self.kind, Vocos(config) if self.kind == "vocos" else MelGAN(config))
        module, optimizer = fabric.setup(module, self._optimizer(module))
        super().__init__(module, [optimizer], {"waveforms": self.crops.shard.digest})
        if run.adversarial_weight:  # built after the vocoder, so that the vocoder's random weights do not depend on it
            discriminator = MelGANDiscriminator(MelGANDiscriminatorConfig(width=run.discriminator_width))
            self.others["discriminator"], optimizer = fabric.setup(discriminator, self._optimizer(discriminator))
            self.optimizers.append(optimizer)

    def _optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        # without weight decay, this equals Adam, as in MelGAN
        return torch.optim.AdamW(module.parameters(), lr=self.run.learning_rate, betas=self.run.betas, weight_decay=self.run.weight_decay)

    def draw(self, rngs: Sequence[np.random.Generator]) -> Crops:
        """Random crops of training sounds."""
        return self.crops.batch(rngs)

    def step(self, context: StepContext, batch: Crops) -> StepResult:
        """Train on one part of a batch; from `adversarial_start` on, train both networks."""
        target = batch.sound
        mel01 = log_mel01(target, self.clip)
        waveform = self.module(mel01, **self.forward_arguments)
        losses = {"mel": mel_loss(waveform, mel01, self.clip)}  # also logged with a weight of 0, to show progress
        terms = [self.run.mel_weight * losses["mel"]] if self.run.mel_weight else []
        if self.run.stft_weight:
            spectral = stft_loss(waveform, target)
            losses |= spectral
            terms += [self.run.stft_weight * term for term in spectral.values()]
        if self.run.adversarial_weight and context.step >= self.run.adversarial_start:
            losses["discriminator"], real = self.discriminate(context, waveform.detach(), target)
            with frozen(context.fabric, self.others["discriminator"]) as discriminator:
                adversarial = melgan_generator_loss(real, discriminator(waveform), self.run.matching_weight)
            losses |= adversarial
            terms += [self.run.adversarial_weight * term for term in adversarial.values()]
        context.optimise(torch.stack(terms).sum(), self.module, self.optimizers[0])
        return StepResult(losses)

    def discriminate(
        self, context: StepContext, made: Float[Tensor, "batch samples"], target: Float[Tensor, "batch samples"]
    ) -> tuple[Float[Tensor, ""], list[list[Tensor]]]:
        """Train the discriminator for one step.

        Args:
            context: context of the step.
            made: waveforms of the vocoder, detached.
            target: real waveforms.

        Returns:
            The discriminator's loss, and the feature maps of the real waveforms by scale and layer, all detached.
        """
        discriminator = self.others["discriminator"]
        # a single forward pass, because DDP synchronises gradients after each pass
        scales = discriminator(torch.cat([target, made]))
        real, fake = ([[maps[half] for maps in scale] for scale in scales] for half in (slice(len(target)), slice(len(target), None)))
        loss = melgan_discriminator_loss(real, fake)
        context.optimise(loss, discriminator, self.optimizers[1])
        return loss.detach(), [[maps.detach() for maps in scale] for scale in real]

    def validate(self, fabric: lightning_fabric.Fabric) -> dict[str, float]:
        """Mel loss, by which MelGAN's authors selected their weights."""

        def measure(batch: Crops) -> dict[str, Float[Tensor, ""]]:
            mel01 = log_mel01(batch.sound, self.clip)
            return {"loss": mel_loss(self.module.module(mel01).float(), mel01, self.clip)}

        return mean_metrics(fabric, self.run, self.valid.batch, self.valid.in_order, measure)

    def examples(self, batch: Crops) -> Examples:
        """A real sound and the vocoder's output for its mel, with the mels of both."""
        mel01 = log_mel01(batch.sound[:1], self.clip)
        sounds = {"true": batch.sound[:1], "made": self.module.module(mel01)}
        images = {f"mel/{name}": log_mel01(sound, self.clip)[0] for name, sound in sounds.items()}
        return Examples(images, {f"sound/{name}": sound[0] for name, sound in sounds.items()}, sample_rate=self.clip.sample_rate)

    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write the vocoder's checkpoint folder; MelGAN keeps its weight norms, so that it can be trained further."""
        save_checkpoint(folder, self.kind, self.run.preset, self.config, weights, record)
