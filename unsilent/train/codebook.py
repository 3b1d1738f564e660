"""Training of the codebook: paper section 3.1 with all its losses, of which a run chooses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning_fabric
import numpy as np
import torch
from torch import Tensor, nn

from unsilent.checkpoints.folders import read_config
from unsilent.checkpoints.store import load_checkpoint, save_checkpoint, weights_digest
from unsilent.data.datasets import Crops, mel01_of, open_crops
from unsilent.errors import ParameterError
from unsilent.models.codebook import Codebook, Reconstruction
from unsilent.models.configs import CodebookConfig
from unsilent.models.discriminators import PatchDiscriminator, PatchDiscriminatorConfig
from unsilent.models.perceptual import Perceptual
from unsilent.models.quantizer import as_vectors, k_means, tally
from unsilent.signal.griffin_lim import vocode
from unsilent.signal.mel import from_mel01, to_mel01
from unsilent.train.config import CodebookRun
from unsilent.train.losses import adaptive_weight, codebook_loss, hinge_discriminator_loss, hinge_generator_loss, vqgan_loss
from unsilent.train.report import Examples
from unsilent.train.state import begin
from unsilent.train.steps import Learning, gathered, judging, mean_figures, share_statistics

_FIRST_BATCHES = 8  # whose latents k-means looks at
_ROUNDS = 10  # of k-means
_RECENT = 100  # steps that the share of codes in use is of
_NEVER = -(2**40)  # a step before all others
_CODES = "quantize.embedding.weight"  # name of the codes among the module's weights
_FADED = 1e-5  # hits per step below which the average says nothing any more


class CodebookTrainer:
    """Owns the codebook, what judges it, their optimizers and their data.

    Codes start on latents of the first batches, unless the run begins from others. Those that nothing used for `run.revive_every` steps
    are moved onto latents of the current batch.

    Source:
        Paper section 3.1 and the released VQLPAPSWithDiscriminator; VQ-VAE-2 (arXiv 1906.00446) equation 2 for codes as moving averages.
        Differs: the perceptual distance is that of trained weights or there is none; the discriminator learns from the reconstructions
        that the codebook was judged by, not from anew computed ones.
    """

    def __init__(self, run: CodebookRun, config: CodebookConfig, fabric: lightning_fabric.Fabric) -> None:
        self.run, self.config = run, config
        clip = config.clip
        samples = run.crop_columns * clip.column_samples
        self.crops = open_crops(run.shards, "train", samples, run.augmentation)
        self.valid = open_crops(run.shards, "valid", samples) if run.valid_every else None
        self.data = {self.crops.kind: self.crops.shard.digest}
        self.distance = None
        if run.perceptual is not None:
            self.distance = load_distance(run.perceptual, clip.mels, run.perceptual_untrained).to(fabric.device)
            self.data["perceptual"] = weights_digest(run.perceptual)
        module = begin(run, "codebook", Codebook(config))
        module.quantize.embedding.requires_grad_(run.codes == "gradient")
        self.module, optimizer = fabric.setup(*self._with_optimizer(module))
        self.module.mark_forward_method("latents")  # reviving codes looks at latents outside of a training step
        self.optimizers = [optimizer]
        self.last_used = torch.full((config.n_codes,), _NEVER, device=fabric.device)  # step that last chose each code
        self.memory = {"last_used": self.last_used}
        self.replaced: dict[str, list[Tensor]] = {}
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
            if run.adaptive_weight[0] < run.adaptive_weight[1]:
                self.module.decoder.conv_out.register_forward_pre_hook(self._remember)

    def _with_optimizer(self, module: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        return module, torch.optim.Adam(weights, lr=self.run.learning_rate, betas=self.run.betas, weight_decay=self.run.weight_decay)

    def draw(self, rngs: Sequence[np.random.Generator]) -> Crops:
        """Random crops of training sounds."""
        return self.crops.batch(rngs)

    def step(self, learning: Learning, batch: Crops) -> dict[str, Tensor]:
        """One step on one batch of crops; with the discriminator, one of each network."""
        mel = self._mel(batch)
        if learning.step == 0 and learning.is_first and self.run.initial is None:
            self._initialise(learning.fabric, mel)
        result = self.module(mel)
        is_judged = bool(self.others) and learning.step >= self.run.adversarial_start
        losses, factor = self._losses(learning.fabric, mel, result, is_judged)
        learning.learn(torch.stack(list(losses.values())).sum(), self.module, self.optimizers[0])
        if is_judged:
            losses["discriminator"] = self._discriminate(learning, mel, result.mel.detach())
            losses["adaptive_weight"] = factor
        return losses | self._count(learning, mel, result)

    def _mel(self, batch: Crops) -> Tensor:
        return from_mel01(mel01_of(batch.sound, self.config.clip))

    def _losses(
        self, fabric: lightning_fabric.Fabric, mel: Tensor, result: Reconstruction, is_judged: bool
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The terms of this step, weighted, and the factor on the adversarial weight."""
        run, factor = self.run, torch.zeros(())
        result = result._replace(mel=result.mel.view_as(result.mel))  # where `_adaptive` may ask for gradients, unseen by the engine
        distance = None if self.distance is None else self.distance(mel, result.mel)
        if not is_judged:
            losses = codebook_loss(mel, result, run.beta, run.beta_on_codebook)
            losses |= {} if distance is None else {"perceptual": run.perceptual_weight * distance.mean()}
        else:
            with judging(fabric, self.others["discriminator"]) as discriminator:
                fake = discriminator(result.mel).float()
            factor = self._adaptive(fabric, mel, result, distance, fake)
            weight = run.adversarial_weight * factor
            losses = vqgan_loss(mel, result, distance, fake, weight, run.perceptual_weight, run.beta, run.beta_on_codebook)
        if run.codes == "average":
            del losses["codebook"]  # it has no gradient, as codes follow by themselves
        return losses, factor

    def _adaptive(
        self, fabric: lightning_fabric.Fabric, mel: Tensor, result: Reconstruction, distance: Tensor | None, fake: Tensor
    ) -> Tensor:
        """How much harder the discriminator must pull at the decoder's last layer to pull as hard as the other terms, within bounds."""
        lowest, highest = self.run.adaptive_weight
        if lowest == highest:
            return torch.full((), lowest, device=mel.device)
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
        self.last_used[counts > 0] = learning.step
        if run.codes == "average":
            self._average(counts, fabric.all_reduce(self.sums_found, reduce_op="sum"))
        self._forget()
        done = learning.step + 1
        # Perplexity: codes in even use that would say as much.
        perplexity = torch.special.entr(counts / counts.sum()).sum().exp()
        said = {"codes_used": (self.last_used >= done - _RECENT).float().mean(), "perplexity": perplexity}
        if done % run.revive_every == 0 and done < run.steps - run.decay_steps:
            rng = np.random.default_rng([run.seed, learning.step])  # the same in all processes
            unused = torch.nonzero(self.last_used < done - run.revive_every).flatten()
            self._place(unused, _chosen(self._latents(fabric, mel), len(unused), rng))
        return said

    def _forget(self) -> None:
        """Begin to count a new batch."""
        weight = self.module.quantize.embedding.weight
        self.counts, self.sums_found = weight.new_zeros(len(weight)), torch.zeros_like(weight)

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
        self.replaced.setdefault(_CODES, []).append(numbers)
        if self.run.codes == "average":
            self.hits[numbers] = 1.0
            self.sums[numbers] = vectors

    def validate(self, fabric: lightning_fabric.Fabric) -> dict[str, float]:
        """Reconstruction and, where it learns from that, perceptual distance; their sum is the `loss`."""

        def judge(batch: Crops) -> dict[str, Tensor]:
            mel = self._mel(batch)
            made = self.module.module(mel).mel
            terms = {"reconstruction": (mel - made).abs().mean()}
            if self.distance is not None:
                terms["perceptual"] = self.run.perceptual_weight * self.distance(mel, made).mean()
            return terms | {"loss": torch.stack(list(terms.values())).sum()}

        return mean_figures(fabric, self.run, self.valid.batch, judge)

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


def load_distance(folder: Path, mels: int, may_be_untrained: bool = False) -> Perceptual:
    """The perceptual distance of a checkpoint folder: a trained VGGish-ish, or a distance that was made from one.

    Raises:
        CheckpointError: if there is no such checkpoint.
        ParameterError: if it has been trained on mels of other sizes or, unless it may, not at all, or if some of its linear weights are
            negative, which would reward differences.
    """
    about = read_config(folder)
    if not (may_be_untrained or about["record"].get("steps") or about["record"].get("converted_from")):
        raise ParameterError(
            f"{folder} was never trained, so its distance would mean nothing; take a trained one, or allow it with perceptual_untrained."
        )
    if about["kind"] == "vggishish":
        distance = Perceptual.from_classifier(load_checkpoint(folder, "vggishish"))
    else:
        distance = load_checkpoint(folder, "perceptual")
    if negative := sum(int((layer.weight < 0).sum()) for layer in distance.linear):
        raise ParameterError(f"{negative} linear weights of {folder} are negative, which would reward differences; take a VGGish-ish.")
    if distance.config.bands.mels != mels:
        raise ParameterError(f"the distance {folder} reads mels of {distance.config.bands.mels} bands, the codebook makes {mels}.")
    return distance
