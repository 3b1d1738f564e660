"""Training of the codebook: paper section 3.1. The run selects from all its losses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unsilent.checkpoints.folders import read_config
from unsilent.checkpoints.store import load_checkpoint, save_checkpoint, weights_digest
from unsilent.data.datasets import Crops, mel01_of, open_crops
from unsilent.errors import ParameterError
from unsilent.models.codebook import Codebook, Reconstruction
from unsilent.models.configs import CodebookConfig
from unsilent.models.discriminators import PatchDiscriminator, PatchDiscriminatorConfig
from unsilent.models.perceptual import Perceptual
from unsilent.models.quantizer import as_vectors
from unsilent.signal.griffin_lim import vocode
from unsilent.signal.loudness import LOUDNESS
from unsilent.signal.mel import from_mel01, to_mel01
from unsilent.train.codes import CodeUpdates
from unsilent.train.config import CodebookRun
from unsilent.train.losses import adaptive_weight, codebook_loss, hinge_discriminator_loss, hinge_generator_loss, vqgan_loss
from unsilent.train.report import Examples
from unsilent.train.state import load_initial
from unsilent.train.steps import StepContext, all_gather_vectors, frozen, mean_metrics, synchronise_batch_norms
from unsilent.train.trainer import StepResult, Trainer

_FIRST_BATCHES = 8  # batches whose latents are clustered by k-means
_CODES = "quantize.embedding.weight"  # state-dict name of the codes


class CodebookTrainer(Trainer):
    """Trains a codebook, with a perceptual distance and a discriminator if the run has them.

    Codes are initialised with latents of the first batches, unless the run has initial weights or uniform initial codes. Codes unused for
    `run.revive_every` steps are replaced with latents of the current batch.

    Source:
        Paper section 3.1 and the released VQLPAPSWithDiscriminator (LPAPS). Differs: the perceptual distance must have trained weights. The
        discriminator is trained on the reconstructions of the codebook's step, not on new ones.
    """

    def __init__(self, run: CodebookRun, config: CodebookConfig, fabric: lightning_fabric.Fabric) -> None:
        self.run, self.config = run, config
        clip = config.clip
        samples = run.crop_columns * clip.column_samples
        self.crops = open_crops(run.shards, "train", samples, run.augmentation)
        self.valid = open_crops(run.shards, "valid", samples) if run.valid_every else None
        data = {self.crops.kind: self.crops.shard.digest}
        self.distance = None
        if run.perceptual is not None:
            self.distance = load_distance(run.perceptual, clip.mels, run.perceptual_untrained).to(fabric.device)
            data["perceptual"] = weights_digest(run.perceptual)
        module = load_initial(run, "codebook", Codebook(config))
        module.quantize.embedding.requires_grad_(run.codes == "gradient")
        module, optimizer = fabric.setup(*self._with_optimizer(module))
        module.mark_forward_method("latents")  # also called outside of a training step, to replace codes
        self.codes = CodeUpdates(run, module.quantize, fabric)
        super().__init__(module, [optimizer], data, self.codes.tensors)
        if run.adversarial_weight:  # built after the codebook, so that the codebook's random weights do not depend on it
            discriminator = PatchDiscriminator(PatchDiscriminatorConfig(width=run.discriminator_width))
            with torch.no_grad():  # refuse crops that are too small now, not at `adversarial_start`
                discriminator.eval()(torch.zeros(1, clip.mels, run.crop_columns * clip.downsampling))
            discriminator = synchronise_batch_norms(fabric, discriminator.train())
            self.others["discriminator"], optimizer = fabric.setup(*self._with_optimizer(discriminator))
            self.optimizers.append(optimizer)
            if run.adaptive_weight[0] < run.adaptive_weight[1]:
                self.module.decoder.conv_out.register_forward_pre_hook(self._keep_last_input)

    def _with_optimizer(self, module: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        return module, torch.optim.Adam(weights, lr=self.run.learning_rate, betas=self.run.betas, weight_decay=self.run.weight_decay)

    def draw(self, rngs: Sequence[np.random.Generator]) -> Crops:
        """Random crops of training sounds."""
        return self.crops.batch(rngs)

    def step(self, context: StepContext, batch: Crops) -> StepResult:
        """Train on one part of a batch; from `adversarial_start` on, train both networks."""
        mel, replaced = self.mel_of(batch), []
        if context.step == 0 and context.is_first and self.run.initial is None and self.run.initialise != "uniform":
            replaced.append(self.codes.initialise(self._first_latents(context.fabric, mel)))
        result = self.module(mel)
        is_adversarial = bool(self.others) and context.step >= self.run.adversarial_start
        losses, factor = self._losses(context.fabric, mel, result, is_adversarial)
        context.optimise(torch.stack(list(losses.values())).sum(), self.module, self.optimizers[0])
        if is_adversarial:
            losses["discriminator"] = self._discriminate(context, mel, result.mel.detach())
            losses["adaptive_weight"] = factor
        metrics, revived = self.codes.update(context, result.quantized, lambda: self.latents(context.fabric, mel))
        return StepResult(losses | metrics, {_CODES: replaced + revived})

    def mel_of(self, batch: Crops) -> Float[Tensor, "batch mels frames"]:
        """Mels in [-1, 1] of a batch."""
        return from_mel01(mel01_of(batch.sound, self.config.clip))

    @torch.no_grad()
    def latents(self, fabric: lightning_fabric.Fabric, mel: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "n dim"]:
        """Latent vectors of the mels of all processes, gathered in each of them."""
        return all_gather_vectors(fabric, as_vectors(self.module.latents(mel)))

    def _first_latents(self, fabric: lightning_fabric.Fabric, mel: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "n dim"]:
        run, vectors = self.run, [self.latents(fabric, mel)]
        if run.initialise == "k-means":
            first = fabric.global_rank * run.batch
            for number in range(1, _FIRST_BATCHES):
                seeds = [
                    [run.seed, number, item, 0] for item in range(first, first + run.batch)
                ]  # four numbers, because seeds of steps have three
                batch = self.draw([np.random.default_rng(seed) for seed in seeds])
                vectors.append(self.latents(fabric, self.mel_of(batch._replace(sound=batch.sound.to(mel.device)))))
        return torch.cat(vectors)

    def _losses(
        self, fabric: lightning_fabric.Fabric, mel: Float[Tensor, "batch mels frames"], result: Reconstruction, is_adversarial: bool
    ) -> tuple[dict[str, Float[Tensor, ""]], Float[Tensor, ""]]:
        """The weighted losses, and the adaptive factor."""
        run, factor = self.run, torch.zeros(())
        result = result._replace(mel=result.mel.view_as(result.mel))  # a view, because DDP forbids `torch.autograd.grad` on its outputs
        distance = None if self.distance is None else self.distance(mel, result.mel)
        if not is_adversarial:
            losses = codebook_loss(mel, result, run.beta, run.beta_on_codebook)
            losses |= {} if distance is None else {"perceptual": run.perceptual_weight * distance.mean()}
        else:
            with frozen(fabric, self.others["discriminator"]) as discriminator:
                fake = discriminator(result.mel).float()
            factor = self.adaptive_factor(fabric, mel, result, distance, fake)
            weight = run.adversarial_weight * factor
            losses = vqgan_loss(mel, result, distance, fake, weight, run.perceptual_weight, run.beta, run.beta_on_codebook)
        if run.codes == "average":
            del losses["codebook"]  # averaged codes have no gradient
        return losses, factor

    def adaptive_factor(
        self,
        fabric: lightning_fabric.Fabric,
        mel: Float[Tensor, "batch mels frames"],
        result: Reconstruction,
        distance: Float[Tensor, "batch"] | None,
        fake: Float[Tensor, "batch rows columns"],
    ) -> Float[Tensor, ""]:
        """VQGAN's adaptive factor on the adversarial weight (`losses.adaptive_weight`), within `run.adaptive_weight`.

        Args:
            fabric: averages gradients over processes.
            mel: input of the codebook.
            result: output of the codebook; its mel must be a view, see `_losses`.
            distance: perceptual distance between input and output; None without one.
            fake: the discriminator's logits of the reconstruction.
        """
        lowest, highest = self.run.adaptive_weight
        if lowest == highest:
            return torch.full((), lowest, device=mel.device)
        likelihood = (mel - result.mel).abs().mean()
        if distance is not None:
            likelihood = likelihood + self.run.perceptual_weight * distance.mean()
        last, gradients = self.module.decoder.conv_out, []
        for term in (likelihood, hinge_generator_loss(fake)):
            (slope,) = torch.autograd.grad(term, result.mel, retain_graph=True)
            # computed by hand, because DDP allows only one backward pass through the network
            gradient = torch.nn.grad.conv2d_weight(self.last_input, last.weight.shape, slope.unsqueeze(1), padding=last.padding)
            gradients.append(fabric.all_reduce(gradient, reduce_op="mean"))
        return adaptive_weight(*gradients, lowest, highest)

    def _keep_last_input(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        self.last_input = inputs[0].detach().float()  # input of the decoder's last convolution

    def _discriminate(
        self, context: StepContext, mel: Float[Tensor, "batch mels frames"], made: Float[Tensor, "batch mels frames"]
    ) -> Float[Tensor, ""]:
        """Train the discriminator for one step; returns its loss."""
        discriminator = self.others["discriminator"]
        loss = hinge_discriminator_loss(discriminator(mel), discriminator(made))
        context.optimise(loss, discriminator, self.optimizers[1])
        return loss

    def validate(self, fabric: lightning_fabric.Fabric) -> dict[str, float]:
        """Reconstruction loss and, if there is one, weighted perceptual distance; their sum is `loss`."""

        def measure(batch: Crops) -> dict[str, Float[Tensor, ""]]:
            mel = self.mel_of(batch)
            made = self.module.module(mel).mel
            terms = {"reconstruction": (mel - made).abs().mean()}
            if self.distance is not None:
                terms["perceptual"] = self.run.perceptual_weight * self.distance(mel, made).mean()
            return terms | {"loss": torch.stack(list(terms.values())).sum()}

        return mean_metrics(fabric, self.run, self.valid.batch, self.valid.in_order, measure)

    def examples(self, batch: Crops) -> Examples:
        """True and reconstructed mels, their sounds by Griffin-Lim, and the codes."""
        mel = self.mel_of(batch)
        result = self.module.module(mel)
        mels = {"true": to_mel01(mel[:1]), "rebuilt": to_mel01(result.mel[:1].float()).clamp(0, 1)}
        clip = self.config.clip
        images = {f"mel/{name}": mel01[0] for name, mel01 in mels.items()}
        sounds = {f"sound/{name}": vocode(mel01, clip)[0] for name, mel01 in mels.items()}
        return Examples(images, sounds, {"codes": result.quantized.grid}, clip.sample_rate)

    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write the codebook's checkpoint folder, including the loudness of training sounds."""
        save_checkpoint(folder, "codebook", self.run.preset, self.config, weights, record | {LOUDNESS: self.crops.loudness_lufs})


def load_distance(folder: Path, mels: int, may_be_untrained: bool = False) -> Perceptual:
    """Load a perceptual distance from the checkpoint of a trained VGGish-ish, or of a distance made from one.

    Args:
        folder: checkpoint.
        mels: mel bands that the distance must have.
        may_be_untrained: accept random weights.

    Raises:
        CheckpointError: if there is no such checkpoint.
        ParameterError: if it has another number of mel bands, was never trained, or has negative channel weights, which would reward
            differences.
    """
    config = read_config(folder)
    if not (may_be_untrained or config["record"].get("steps") or config["record"].get("converted_from")):
        raise ParameterError(f"{folder} was never trained, so its distance is meaningless; use a trained one, or set perceptual_untrained.")
    if config["kind"] == "vggishish":
        distance = Perceptual.from_classifier(load_checkpoint(folder, "vggishish"))
    else:
        distance = load_checkpoint(folder, "perceptual")
    if negative := sum(int((layer.weight < 0).sum()) for layer in distance.linear):
        raise ParameterError(f"{negative} linear weights of {folder} are negative, which would reward differences; use a VGGish-ish.")
    if distance.config.bands.mels != mels:
        bands = distance.config.bands.mels
        raise ParameterError(f"the distance {folder} has {bands} mel bands, but the codebook {mels}; use one of the same preset.")
    return distance
