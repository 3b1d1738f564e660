"""Training of the codebook: paper section 3.1 with all its losses, of which a run chooses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn

from unsilent.checkpoints.store import load_checkpoint, read_config, save_checkpoint
from unsilent.data.datasets import Crops, mel01_of, open_crops
from unsilent.errors import ParameterError
from unsilent.losses import adaptive_weight, codebook_loss, hinge_discriminator_loss, hinge_generator_loss, vqgan_loss
from unsilent.models.codebook import Codebook, CodebookConfig, Reconstruction
from unsilent.models.discriminators import PatchDiscriminator, PatchDiscriminatorConfig
from unsilent.models.perceptual import Perceptual
from unsilent.models.quantizer import as_vectors, k_means, tally
from unsilent.signal.griffin_lim import vocode
from unsilent.signal.mel import from_mel01, to_mel01
from unsilent.train.config import CodebookRun
from unsilent.train.report import Examples
from unsilent.train.steps import Learning, gathered, judging, share_statistics

_FIRST_BATCHES = 8  # whose latents k-means looks at
_ROUNDS = 10  # of k-means
_FADED = 1e-5  # hits per step below which the average says nothing any more


class CodebookTrainer:
    """Owns the codebook, what judges it, their optimizers and their data.

    Codes start on latents of the first batches. Those that nothing used for `run.revive_every` steps are moved onto latents of the
    current batch.

    Source:
        Paper section 3.1 and the released VQLPAPSWithDiscriminator; VQ-VAE-2 (arXiv 1906.00446) equation 2 for codes as moving averages.
        Differs: the perceptual distance is that of trained weights or there is none; the discriminator learns from the reconstructions
        that the codebook was judged by, not from anew computed ones.
    """

    def __init__(self, run: CodebookRun, config: CodebookConfig, fabric: lightning_fabric.Fabric) -> None:
        self.run, self.config = run, config
        clip = config.clip
        self.crops = open_crops(run.shards, "train", run.crop_columns * clip.column_samples, run.gain_db)
        self.data = {self.crops.kind: self.crops.shard.digest}
        self.distance = None if run.perceptual is None else load_distance(run.perceptual, clip.mels).to(fabric.device)
        module = Codebook(config)
        module.quantize.embedding.requires_grad_(run.codes == "gradient")
        self.module, optimizer = fabric.setup(*self._with_optimizer(module))
        self.module.mark_forward_method("latents")  # reviving codes looks at latents outside of a training step
        self.optimizers = [optimizer]
        self.uses = torch.zeros(config.n_codes, device=fabric.device)  # since codes were last revived
        self.memory = {"uses": self.uses}
        if run.codes == "average":
            self.hits = torch.ones(config.n_codes, device=fabric.device)
            self.sums = self.module.quantize.embedding.weight.detach().clone()
            self.memory |= {"hits": self.hits, "sums": self.sums}
        self._forget()
        self.others: dict[str, nn.Module] = {}
        if run.adversarial_weight:  # built after the codebook, which so begins with the same weights as without
            judge = PatchDiscriminator(PatchDiscriminatorConfig(width=run.discriminator_width))
            with torch.no_grad():  # crops that are too small for it are refused now rather than at `adversarial_start`
                judge.eval()(torch.zeros(1, clip.mels, run.crop_columns * clip.downsampling))
            judge = share_statistics(fabric, judge.train())
            self.others["discriminator"], optimizer = fabric.setup(*self._with_optimizer(judge))
            self.optimizers.append(optimizer)
            self.module.decoder.conv_out.register_forward_pre_hook(self._remember)

    def _with_optimizer(self, module: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        return module, torch.optim.Adam(weights, lr=self.run.learning_rate, betas=self.run.betas)

    def draw(self, rngs: Sequence[np.random.Generator]) -> Crops:
        """Random crops of training sounds."""
        return self.crops.batch(rngs)

    def step(self, learning: Learning, batch: Crops) -> dict[str, Tensor]:
        """One step on one batch of crops; with the discriminator, one of each network."""
        mel = self._mel(batch)
        if learning.step == 0 and learning.is_first:
            self._initialise(learning.fabric, mel)
        result = self.module(mel)
        is_judged = bool(self.others) and learning.step >= self.run.adversarial_start
        losses = self._losses(learning.fabric, mel, result, is_judged)
        learning.learn(torch.stack(list(losses.values())).sum(), self.module, self.optimizers[0])
        if is_judged:
            losses["discriminator"] = self._discriminate(learning, mel, result.mel.detach())
        return losses | self._count(learning, mel, result)

    def _mel(self, batch: Crops) -> Tensor:
        return from_mel01(mel01_of(batch.sound, self.config.clip))

    def _losses(self, fabric: lightning_fabric.Fabric, mel: Tensor, result: Reconstruction, is_judged: bool) -> dict[str, Tensor]:
        """The terms of this step, weighted."""
        run = self.run
        result = result._replace(mel=result.mel.view_as(result.mel))  # where `_adaptive` may ask for gradients, unseen by the engine
        distance = None if self.distance is None else self.distance(mel, result.mel)
        if not is_judged:
            losses = codebook_loss(mel, result, run.beta, run.beta_on_codebook)
            losses |= {} if distance is None else {"perceptual": run.perceptual_weight * distance.mean()}
        else:
            with judging(fabric, self.others["discriminator"]) as discriminator:
                fake = discriminator(result.mel).float()
            weight = run.adversarial_weight * self._adaptive(fabric, mel, result, distance, fake)
            losses = vqgan_loss(mel, result, distance, fake, weight, run.perceptual_weight, run.beta, run.beta_on_codebook)
        if run.codes == "average":
            del losses["codebook"]  # it has no gradient, as codes follow by themselves
        return losses

    def _adaptive(
        self, fabric: lightning_fabric.Fabric, mel: Tensor, result: Reconstruction, distance: Tensor | None, fake: Tensor
    ) -> float | Tensor:
        """How much harder the discriminator must pull at the decoder's last layer to pull as hard as the other terms, within bounds."""
        lowest, highest = self.run.adaptive_weight
        if lowest == highest:
            return lowest
        likelihood = (mel - result.mel).abs().mean()
        if distance is not None:
            likelihood = likelihood + self.run.perceptual_weight * distance.mean()
        last, pulls = self.module.decoder.conv_out, []
        for term in (likelihood, hinge_generator_loss(fake)):
            (slope,) = torch.autograd.grad(term, result.mel, retain_graph=True)
            # The last step back by hand: the engine wants no walk through its networks but that of the loss.
            pull = torch.nn.grad.conv2d_weight(self.drawn, last.weight.shape, slope.unsqueeze(1), padding=last.padding)
            pulls.append(fabric.all_reduce(pull, reduce_op="mean"))  # one loss for all processes
        return adaptive_weight(*pulls, lowest, highest)

    def _remember(self, layer: nn.Module, inputs: tuple[Tensor]) -> None:
        self.drawn = inputs[0].detach().float()  # what went into the decoder's last convolution

    def _discriminate(self, learning: Learning, mel: Tensor, made: Tensor) -> Tensor:
        """One step of the discriminator; its loss."""
        discriminator = self.others["discriminator"]
        loss = hinge_discriminator_loss(discriminator(mel), discriminator(made))
        learning.learn(loss, discriminator, self.optimizers[1])
        return loss

    @torch.no_grad()
    def _count(self, learning: Learning, mel: Tensor, result: Reconstruction) -> dict[str, Tensor]:
        """Take note of which codes were used, over all parts of the batch and all processes, and move those that are not."""
        run, fabric = self.run, learning.fabric
        counts, sums = tally(as_vectors(result.quantized.inputs), result.quantized.grid.flatten(), self.config.n_codes)
        self.counts, self.sums_found = self.counts + counts, self.sums_found + sums
        if not learning.is_last:
            return {}
        counts = fabric.all_reduce(self.counts, reduce_op="sum")
        self.uses += counts
        if run.codes == "average":
            self._average(counts, fabric.all_reduce(self.sums_found, reduce_op="sum"))
        self._forget()
        # Perplexity: codes in even use that would say as much.
        said = {"codes_used": (self.uses > 0).float().mean(), "perplexity": torch.special.entr(counts / counts.sum()).sum().exp()}
        done = learning.step + 1
        if done % run.revive_every == 0 and done < run.steps - run.decay_steps:
            rng = np.random.default_rng([run.seed, learning.step])  # the same in all processes
            unused = torch.nonzero(self.uses == 0).flatten()
            self._place(unused, _chosen(self._latents(fabric, mel), len(unused), rng))
            self.uses.zero_()
        return said

    def _forget(self) -> None:
        """Begin to count a new batch."""
        self.counts, self.sums_found = torch.zeros_like(self.uses), torch.zeros_like(self.module.quantize.embedding.weight)

    def _average(self, counts: Tensor, sums: Tensor) -> None:
        share = 1 - self.run.codes_decay
        self.hits.lerp_(counts, share)
        self.sums.lerp_(sums, share)
        weight = self.module.quantize.embedding.weight
        means = self.sums / self.hits.clamp(min=_FADED)[:, None]
        weight.copy_(torch.where(self.hits[:, None] > _FADED, means, weight))

    @torch.no_grad()
    def _initialise(self, fabric: lightning_fabric.Fabric, mel: Tensor) -> None:
        """Put every code where latents are."""
        run, rng = self.run, np.random.default_rng(self.run.seed)
        vectors = self._latents(fabric, mel)
        if run.initialise == "k-means":
            first = fabric.global_rank * run.batch
            for number in range(1, _FIRST_BATCHES):
                items = range(first, first + run.batch)
                more = self.draw([np.random.default_rng([run.seed, number, item, 0]) for item in items])  # three numbers are a step's
                vectors = torch.cat([vectors, self._latents(fabric, self._mel(more._replace(sound=more.sound.to(mel.device))))])
        codes = _chosen(vectors, self.config.n_codes, rng)
        self._place(torch.arange(self.config.n_codes), k_means(vectors, codes, _ROUNDS) if run.initialise == "k-means" else codes)

    def _latents(self, fabric: lightning_fabric.Fabric, mel: Tensor) -> Tensor:
        """Latent vectors of the batches of all processes, the same in all."""
        return gathered(fabric, as_vectors(self.module.latents(mel)))

    def _place(self, numbers: Tensor, vectors: Tensor) -> None:
        self.module.quantize.replace(numbers, vectors)
        if self.run.codes == "average":
            self.hits[numbers] = 1.0
            self.sums[numbers] = vectors

    def examples(self, batch: Crops) -> Examples:
        """True and rebuilt mels, how both sound through Griffin-Lim, and which codes were chosen."""
        mel = self._mel(batch)
        result = self.module.module(mel)
        mels = {"true": to_mel01(mel[:1]), "rebuilt": to_mel01(result.mel[:1].float()).clamp(0, 1)}
        clip = self.config.clip
        pictures = {f"mel/{name}": mel01[0] for name, mel01 in mels.items()}
        sounds = {f"sound/{name}": vocode(mel01, clip)[0] for name, mel01 in mels.items()}
        return Examples(pictures, sounds, {"codes": result.quantized.grid}, clip.sample_rate)

    def save(self, folder: Path, weights: dict[str, Tensor], record: dict[str, Any]) -> None:
        """Write the codebook's checkpoint folder."""
        save_checkpoint(folder, "codebook", self.run.preset, self.config, weights, record)


def _chosen(vectors: Tensor, n: int, rng: np.random.Generator) -> Tensor:
    """`n` of the vectors, different ones if there are as many."""
    return vectors[torch.from_numpy(rng.choice(len(vectors), n, replace=len(vectors) < n)).to(vectors.device)]


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
