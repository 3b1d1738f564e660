"""The codebook proper: replaces each latent vector by the nearest of `n_codes` learned ones."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn


class Quantized(NamedTuple):
    """What quantising gives; a named tuple because the training engine walks through results and refuses frozen data classes.

    Attributes:
        latents: nearest codebook vectors `[batch, dim, rows, columns]`; gradients pass straight through to the input.
        grid: their numbers `[batch, rows, columns]`.
        commitment: mean squared distance that pulls the encoder's output to the codes.
        codebook: the same distance, pulling the codes to the encoder's output.
        inputs: what was quantised, without gradient, of the shape of `latents`.
    """

    latents: Tensor
    grid: Tensor
    commitment: Tensor
    codebook: Tensor
    inputs: Tensor


def as_vectors(latents: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "n dim"]:
    """The vectors of all positions, one below the other, in single precision."""
    return latents.movedim(1, -1).flatten(0, 2).float()


def closest(vectors: Float[Tensor, "n dim"], codes: Float[Tensor, "codes dim"]) -> Int[Tensor, "n"]:
    """The number of the closest code for each vector."""
    with torch.autocast(vectors.device.type, enabled=False):  # half precision cannot tell near codes apart
        # |v - e|^2 without |v|^2, which is the same for every code
        return (codes.square().sum(1) - 2 * vectors @ codes.T).argmin(1)


def tally(
    vectors: Float[Tensor, "n dim"], numbers: Int[Tensor, "n"], n_codes: int
) -> tuple[Float[Tensor, "codes"], Float[Tensor, "codes dim"]]:
    """How many vectors each code got, and their sum."""
    chosen = F.one_hot(numbers, n_codes).float()  # a product, since adding at indices is not repeatable on a GPU
    return chosen.sum(0), chosen.T @ vectors


def k_means(vectors: Float[Tensor, "n dim"], centres: Float[Tensor, "codes dim"], rounds: int) -> Float[Tensor, "codes dim"]:
    """Move `centres` to the middles of the vectors closest to them, `rounds` times; one that no vector is closest to stays."""
    for _ in range(rounds):
        counts, sums = tally(vectors, closest(vectors, centres), len(centres))
        centres = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), centres)
    return centres


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
        numbers = closest(as_vectors(latents), self.embedding.weight.float())
        return numbers.reshape(latents.shape[0], *latents.shape[2:])

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
        return Quantized(straight_through, grid, commitment, codebook, latents.detach())

    @torch.no_grad()
    def replace(self, unused: Int[Tensor, "n"], vectors: Float[Tensor, "n dim"]) -> None:
        """Move codes that nothing uses onto `vectors` that exist, so that the codebook does not collapse."""
        self.embedding.weight[unused] = vectors.to(self.embedding.weight)
