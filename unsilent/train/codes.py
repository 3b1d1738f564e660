"""Updates of codes without gradients: initialisation, moving averages, replacement of unused codes. Metrics of their usage."""

from collections.abc import Callable

import lightning_fabric
import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unsilent.models.quantizer import Quantized, Quantizer, as_vectors, k_means, tally
from unsilent.train.config import CodebookRun
from unsilent.train.steps import StepContext

_ITERATIONS = 10  # iterations of k-means
_RECENT = 100  # steps over which the metric `codes_used` is measured
_NEVER = -(2**40)  # step number of codes that were never used
_MIN_HITS = 1e-5  # average uses per step below which the average of latents is not used


class CodeUpdates:
    """Initialises and updates the codes of a quantiser.

    Args:
        run: settings.
        quantizer: its codes are updated in place.
        fabric: must be launched.

    Attributes:
        tensors: state that a resumed training needs.

    Source:
        VQ-VAE-2 (arXiv 1906.00446) equation 2 for codes as moving averages.
    """

    def __init__(self, run: CodebookRun, quantizer: Quantizer, fabric: lightning_fabric.Fabric) -> None:
        self.run, self.quantizer = run, quantizer
        self.n_codes = len(quantizer.embedding.weight)
        self.last_used = torch.full((self.n_codes,), _NEVER, device=fabric.device)  # step that last used each code
        self.tensors = {"last_used": self.last_used}
        if run.codes == "average":
            self.hits = torch.ones(self.n_codes, device=fabric.device)
            self.sums = quantizer.embedding.weight.detach().clone()
            self.tensors |= {"hits": self.hits, "sums": self.sums}
        self._reset_counts()

    @torch.no_grad()
    def initialise(self, vectors: Float[Tensor, "n dim"]) -> Int64[Tensor, "codes"]:
        """Set all codes to random latents, or to k-means centres of latents; returns their indices."""
        codes, every = _choose(vectors, self.n_codes, np.random.default_rng(self.run.seed)), torch.arange(self.n_codes)
        self.place(every, k_means(vectors, codes, _ITERATIONS) if self.run.initialise == "k-means" else codes)
        return every

    @torch.no_grad()
    def update(
        self, context: StepContext, quantized: Quantized, latents: Callable[[], Float[Tensor, "n dim"]]
    ) -> tuple[dict[str, Float[Tensor, ""]], list[Int64[Tensor, "replaced"]]]:
        """Count the codes used by one part of a batch. After the last part, update averages, and replace unused codes with latents.

        Args:
            context: context of the step.
            quantized: the quantiser's result for the part.
            latents: returns latent vectors of all processes' parts; called only to replace codes.

        Returns:
            Metrics, after the last part only, and the indices of replaced codes. `codes_used` is the share of codes used in the last 100
            steps, `perplexity` the exponential of the entropy of the batch's codes.
        """
        run, fabric = self.run, context.fabric
        counts, sums = tally(as_vectors(quantized.inputs), quantized.grid.flatten(), self.n_codes)
        self.counts, self.latent_sums = self.counts + counts, self.latent_sums + sums
        if not context.is_last:
            return {}, []
        counts = fabric.all_reduce(self.counts, reduce_op="sum")
        self.last_used[counts > 0] = context.step
        if run.codes == "average":
            self._average(counts, fabric.all_reduce(self.latent_sums, reduce_op="sum"))
        self._reset_counts()
        done = context.step + 1
        perplexity = torch.special.entr(counts / counts.sum()).sum().exp()
        metrics = {"codes_used": (self.last_used >= done - _RECENT).float().mean(), "perplexity": perplexity}
        if done % run.revive_every or done >= run.steps - run.decay_steps:
            return metrics, []
        rng = np.random.default_rng([run.seed, context.step])  # the same in all processes
        unused = torch.nonzero(self.last_used < done - run.revive_every).flatten()
        self.place(unused, _choose(latents(), len(unused), rng))
        return metrics, [unused]

    def _reset_counts(self) -> None:
        weight = self.quantizer.embedding.weight
        self.counts, self.latent_sums = weight.new_zeros(self.n_codes), torch.zeros_like(weight)

    def _average(self, counts: Float[Tensor, "codes"], sums: Float[Tensor, "codes dim"]) -> None:
        self.hits.lerp_(counts, 1 - self.run.codes_decay)
        self.sums.lerp_(sums, 1 - self.run.codes_decay)
        weight = self.quantizer.embedding.weight
        means = self.sums / self.hits.clamp(min=_MIN_HITS)[:, None]
        weight.copy_(torch.where(self.hits[:, None] > _MIN_HITS, means, weight))

    def place(self, indices: Int64[Tensor, "n"], vectors: Float[Tensor, "n dim"]) -> None:
        """Set codes to vectors, and restart their averages."""
        self.quantizer.replace(indices, vectors)
        if self.run.codes == "average":
            self.hits[indices] = 1.0
            self.sums[indices] = vectors


def _choose(vectors: Float[Tensor, "n dim"], count: int, rng: np.random.Generator) -> Float[Tensor, "count dim"]:
    """Random vectors, distinct if there are enough."""
    return vectors[torch.from_numpy(rng.choice(len(vectors), count, replace=len(vectors) < count)).to(vectors.device)]
