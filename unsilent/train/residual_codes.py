"""Fits the linear maps and codes of a residual codebook, without gradients: PCA, then k-means level by level."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from unsilent.models.configs import ResidualCodebookConfig
from unsilent.models.quantizer import closest, tally
from unsilent.models.residual_codebook import ResidualCodebook, column_features

_ITERATIONS = 4  # iterations of k-means
_CHUNK = 4096  # vectors that are assigned to codes at once
_SILENT = -0.98  # a column whose largest patch power is below this value counts as silent


def columns_of(mel: Float[Tensor, "batch mels frames"], config: ResidualCodebookConfig) -> Float[Tensor, "n features"]:
    """Inputs of the encoder's linear map; most silent columns are left out."""
    columns = column_features(mel, config).flatten(0, 1)
    power = columns[:, : config.clip.mels * config.patches]
    return columns[(power.amax(1) > _SILENT) | (torch.rand(len(columns)) < 0.02)]


@torch.no_grad()
def fit(codebook: ResidualCodebook, columns: Float[Tensor, "n features"]) -> Iterator[float]:
    """Set the linear maps to the PCA of columns, and the codes of each level to k-means centres of the residuals of the levels before.

    Args:
        codebook: a residual codebook of any sizes, changed in place.
        columns: result of `columns_of`, many times as many as codes.

    Yields:
        After each level, the share of the variance that remains.
    """
    config, mean = codebook.config, columns.mean(0)
    centred = columns - mean
    basis = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, : config.dim]
    codebook.encoder.linear.weight.copy_(basis.T)
    codebook.encoder.linear.bias.copy_(-(basis.T @ mean))
    codebook.decoder.linear.weight.copy_(basis)
    codebook.decoder.linear.bias.copy_(mean)
    residuals = centred @ basis
    for level in range(config.levels):
        centres = residuals[torch.randperm(len(residuals))[: config.n_codes]].clone()
        for iteration in range(_ITERATIONS):
            counts, sums = _tally_in_chunks(residuals, centres)
            centres = sums / counts.clamp(min=1)[:, None]
            rare = torch.nonzero(counts < 0.1 * counts.mean()).flatten()
            if len(rare) and iteration + 1 < _ITERATIONS:  # move rare codes next to frequent ones
                near = centres[torch.multinomial(counts, len(rare))]
                centres[rare] = 0.7 * near + 0.3 * residuals[torch.randint(len(residuals), (len(rare),))]
        codebook.quantize.codes[level] = centres
        residuals = residuals - torch.cat([centres[closest(chunk, centres)] for chunk in residuals.split(_CHUNK)])
        yield float(residuals.square().sum(1).mean() / centred.square().sum(1).mean())


def _tally_in_chunks(vectors: Float[Tensor, "n dim"], centres: Float[Tensor, "codes dim"]) -> tuple[Tensor, Tensor]:
    """Count and sum of the vectors nearest to each centre."""
    parts = [tally(chunk, closest(chunk, centres), len(centres)) for chunk in vectors.split(_CHUNK)]
    return sum(counts for counts, _ in parts), sum(sums for _, sums in parts)
