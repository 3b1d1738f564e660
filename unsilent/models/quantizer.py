"""Vector quantisation: replaces each latent vector with the nearest of `n_codes` learned ones.

n      latent vectors: batch * rows * columns
codes  entries of the codebook
dim    width of one vector
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class Quantized(NamedTuple):
    """Result of quantisation; a named tuple, because Lightning Fabric cannot traverse frozen data classes.

    Attributes:
        latents: nearest codebook vectors, with straight-through gradients to the input.
        grid: indices of these vectors.
        commitment: mean squared distance, with gradients for the encoder only.
        codebook: the same distance, with gradients for the codebook only.
        inputs: the latents before quantisation, detached.
    """

    latents: Float[Tensor, "batch dim rows columns"]
    grid: Int[Tensor, "batch rows columns"]
    commitment: Float[Tensor, ""]
    codebook: Float[Tensor, ""]
    inputs: Float[Tensor, "batch dim rows columns"]


def as_vectors(latents: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "n dim"]:
    """Vectors of all positions, in float32."""
    return latents.movedim(1, -1).flatten(0, 2).float()


def closest(vectors: Float[Tensor, "n dim"], codes: Float[Tensor, "codes dim"]) -> Int[Tensor, "n"]:
    """Index of the nearest code for each vector."""
    with torch.autocast(vectors.device.type, enabled=False):  # bfloat16 cannot distinguish close codes
        # |v - e|^2 without |v|^2, which is the same for every code
        return (codes.square().sum(1) - 2 * vectors @ codes.T).argmin(1)


def tally(
    vectors: Float[Tensor, "n dim"], indices: Int[Tensor, "n"], n_codes: int
) -> tuple[Float[Tensor, "codes"], Float[Tensor, "codes dim"]]:
    """Count and sum of the vectors assigned to each code."""
    one_hot = F.one_hot(indices, n_codes).float()  # a matrix product, because index_add_ is not deterministic on a GPU
    return one_hot.sum(0), one_hot.T @ vectors


def k_means(vectors: Float[Tensor, "n dim"], centres: Float[Tensor, "codes dim"], iterations: int) -> Float[Tensor, "codes dim"]:
    """Lloyd iterations: move each centre to the mean of the vectors nearest to it; a centre without vectors stays."""
    for _ in range(iterations):
        counts, sums = tally(vectors, closest(vectors, centres), len(centres))
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centres)
    return centres


class Quantizer(nn.Module):
    """Nearest-neighbour quantiser with a learned codebook, initialised uniformly in ±1 / n_codes.

    Source:
        Paper equation 1; VQ-VAE (arXiv 1711.00937) section 3.
    """

    def __init__(self, n_codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_codes, dim)
        nn.init.uniform_(self.embedding.weight, -1 / n_codes, 1 / n_codes)

    def nearest(self, latents: Float[Tensor, "batch dim rows columns"]) -> Int[Tensor, "batch rows columns"]:
        """Index of the nearest code for each position."""
        indices = closest(as_vectors(latents), self.embedding.weight.float())
        return indices.reshape(latents.shape[0], *latents.shape[2:])

    def lookup(self, grid: Int[Tensor, "batch rows columns"]) -> Float[Tensor, "batch dim rows columns"]:
        """Codebook vectors of codes."""
        return self.embedding(grid).movedim(-1, 1)

    def forward(self, latents: Float[Tensor, "batch dim rows columns"]) -> Quantized:
        """Quantise; the two terms of the loss of paper equation 2 are returned separately, for the trainer to weigh.

        commitment = mean |sg[e] - z|²,    codebook = mean |e - sg[z]|²,    latents = z + sg[e - z]
        """
        grid = self.nearest(latents)
        codes = self.lookup(grid)
        commitment = (codes.detach() - latents).square().mean()
        codebook = (codes - latents.detach()).square().mean()
        straight_through = latents + (codes - latents).detach()
        return Quantized(straight_through, grid, commitment, codebook, latents.detach())

    @torch.no_grad()
    def replace(self, unused: Int[Tensor, "n"], vectors: Float[Tensor, "n dim"]) -> None:
        """Replace unused codes with given vectors, against codebook collapse."""
        self.embedding.weight[unused] = vectors.to(self.embedding.weight)
