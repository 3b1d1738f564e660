"""Training of both vocoders: MelGAN against its discriminator (paper section 6.1.5), Vocos by spectral losses and the same one."""

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
from unsilent.train.state import begin
from unsilent.train.steps import Learning, judging, mean_figures


class VocoderTrainer:
    """Owns the vocoder, the discriminator if there is one, their optimizers and their data.

    Source:
        The MelGAN authors' train.py for the order of the two steps: the discriminator learns first, on sound without gradient; then the
        vocoder is judged by what it has become, while features are matched to those it saw in the real sound before.
    """

    def __init__(self, run: VocoderRun, config: MelGANConfig | VocosConfig, fabric: lightning_fabric.Fabric) -> None:
        self.run, self.config = run, config
        self.clip = config.clip if isinstance(config, VocosConfig) else Clip()  # MelGAN knows no grid but the paper's
        samples = run.crop_frames * self.clip.hop
        self.crops = WaveformCrops(run.shards, "train", samples, run.min_sample_rate, run.augmentation, run.peak)
        self.valid = WaveformCrops(run.shards, "valid", samples, run.min_sample_rate) if run.valid_every else None
        self.data = {"waveforms": self.crops.shard.digest}
        self.kind = "vocos" if isinstance(config, VocosConfig) else "melgan"
        self.forward_arguments = {"iterations": 0} if self.kind == "vocos" else {}  # training does not refine
        module = begin(run, self.kind, Vocos(config) if self.kind == "vocos" else MelGAN(config))
        self.module, optimizer = fabric.setup(module, self._optimizer(module))
        self.optimizers = [optimizer]
        self.memory: dict[str, Tensor] = {}
        self.others: dict[str, nn.Module] = {}
        self.replaced: dict[str, list[Tensor]] = {}
        if run.adversarial_weight:  # built after the vocoder, which so begins with the same weights as without
            judge = MelGANDiscriminator(MelGANDiscriminatorConfig(width=run.discriminator_width))
            self.others["discriminator"], optimizer = fabric.setup(judge, self._optimizer(judge))
            self.optimizers.append(optimizer)

    def _optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        # Without weight decay this is the Adam of MelGAN.
        return torch.optim.AdamW(module.parameters(), lr=self.run.learning_rate, betas=self.run.betas, weight_decay=self.run.weight_decay)

    def draw(self, rngs: Sequence[np.random.Generator]) -> Crops:
        """Random crops of training sounds."""
        return self.crops.batch(rngs)

    def step(self, learning: Learning, batch: Crops) -> dict[str, Tensor]:
        """One step on one batch of crops; with the discriminator, one of each network."""
        target = batch.sound
        mel01 = log_mel01(target, self.clip)
        waveform = self.module(mel01, **self.forward_arguments)
        losses = {"mel": mel_loss(waveform, mel01, self.clip)}  # also where it has no weight: it tells how training goes
        terms = [self.run.mel_weight * losses["mel"]] if self.run.mel_weight else []
        if self.run.stft_weight:
            spectral = stft_loss(waveform, target)
            losses |= spectral
            terms += [self.run.stft_weight * term for term in spectral.values()]
        if self.run.adversarial_weight and learning.step >= self.run.adversarial_start:
            losses["discriminator"], real = self._discriminate(learning, waveform.detach(), target)
            with judging(learning.fabric, self.others["discriminator"]) as discriminator:
                judged = melgan_generator_loss(real, discriminator(waveform), self.run.matching_weight)
            losses |= judged
            terms += [self.run.adversarial_weight * term for term in judged.values()]
        learning.learn(torch.stack(terms).sum(), self.module, self.optimizers[0])
        return losses

    def _discriminate(
        self, learning: Learning, made: Float[Tensor, "batch samples"], target: Float[Tensor, "batch samples"]
    ) -> tuple[Tensor, list[list[Tensor]]]:
        """One step of the discriminator; its loss, and what its layers saw in the real sounds."""
        discriminator = self.others["discriminator"]
        # One pass for both: several processes average gradients once for each pass.
        scales = discriminator(torch.cat([target, made]))
        real, fake = ([[maps[half] for maps in scale] for scale in scales] for half in (slice(len(target)), slice(len(target), None)))
        loss = melgan_discriminator_loss(real, fake)
        learning.learn(loss, discriminator, self.optimizers[1])
        return loss.detach(), [[maps.detach() for maps in scale] for scale in real]

    def validate(self, fabric: lightning_fabric.Fabric) -> dict[str, float]:
        """The difference of mels, by which MelGAN's authors chose their best."""

        def judge(batch: Crops) -> dict[str, Tensor]:
            mel01 = log_mel01(batch.sound, self.clip)
            return {"loss": mel_loss(self.module.module(mel01).float(), mel01, self.clip)}

        return mean_figures(fabric, self.run, self.valid.batch, judge)

    def examples(self, batch: Crops) -> Examples:
        """A true sound and what the vocoder makes of its mel, with the mels of both."""
        mel01 = log_mel01(batch.sound[:1], self.clip)
        sounds = {"true": batch.sound[:1], "made": self.module.module(mel01)}
        pictures = {f"mel/{name}": log_mel01(sound, self.clip)[0] for name, sound in sounds.items()}
        return Examples(pictures, {f"sound/{name}": sound[0] for name, sound in sounds.items()}, sample_rate=self.clip.sample_rate)

    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write the vocoder's checkpoint folder; a MelGAN keeps its weight norms, so that training may go on from it."""
        save_checkpoint(folder, self.kind, self.run.preset, self.config, weights, record)
