"""The codebook proper: replaces each latent vector by the nearest of `n_codes` learned ones."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class Quantized(NamedTuple):
    """What quantising gives; a named tuple because the training engine walks through results and refuses frozen data classes.

    Attributes:
        latents: nearest codebook vectors `[batch, dim, rows, columns]`; gradients pass straight through to the input.
        grid: their numbers `[batch, rows, columns]`.
        commitment: mean squared distance that pulls the encoder's output to the codes.
        codebook: the same distance, pulling the codes to the encoder's output.
    """

    latents: Tensor
    grid: Tensor
    commitment: Tensor
    codebook: Tensor


class Quantizer(nn.Module):
    """Nearest-neighbour quantiser with a learned codebook, started uniformly in ±1 / n_codes.

    Source:
        Paper equation 1; VQ-VAE (arXiv 1711.00937) section 3.
    """

    def __init__(self, n_codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(n_codes, dim)
        nn.init.uniform_(self.embedding.weight, -1 / n_codes, 1 / n_codes)

    def nearest(self, latents: Float[Tensor, "batch dim rows columns"]) -> Int[Tensor, "batch rows columns"]:
        """The number of the closest code for each position."""
        vectors = latents.movedim(1, -1).flatten(0, 2).float()  # [batch * rows * columns, dim]
        codes = self.embedding.weight.float()
        # |v - e|^2 without |v|^2, which is the same for every code
        with torch.autocast(latents.device.type, enabled=False):  # half precision cannot tell near codes apart
            distances = codes.square().sum(1) - 2 * vectors @ codes.T
        return distances.argmin(1).reshape(latents.shape[0], *latents.shape[2:])

    def lookup(self, grid: Int[Tensor, "batch rows columns"]) -> Float[Tensor, "batch dim rows columns"]:
        """The vectors behind the numbers."""
        return self.embedding(grid).movedim(-1, 1)

    def forward(self, latents: Float[Tensor, "batch dim rows columns"]) -> Quantized:
        """Quantise, with the two halves of the codebook loss of paper equation 2 kept apart so that the trainer weighs them."""
        grid = self.nearest(latents)
        codes = self.lookup(grid)
        commitment = (codes.detach() - latents).square().mean()
        codebook = (codes - latents.detach()).square().mean()
        straight_through = latents + (codes - latents).detach()
        return Quantized(straight_through, grid, commitment, codebook)

    @torch.no_grad()
    def replace(self, unused: Int[Tensor, "n"], vectors: Float[Tensor, "n dim"]) -> None:
        """Move codes that nothing uses onto `vectors` that exist, so that the codebook does not collapse."""
        self.embedding.weight[unused] = vectors.to(self.embedding.weight)
