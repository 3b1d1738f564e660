"""Fits the linear maps and codes of a residual codebook: PCA in a metric of hearing, then k-means level by level.

features   width of the features of a column
"""

from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from unsilent.models.configs import ResidualCodebookConfig
from unsilent.models.listener import Listener
from unsilent.models.quantizer import closest, tally
from unsilent.models.residual_codebook import ResidualCodebook, column_features, parts_of, texture
from unsilent.signal.mel import to_mel01

_ITERATIONS = 4  # iterations of k-means
_CHUNK = 4096  # vectors that are assigned to codes at once
_SILENT = -0.98  # a column whose largest patch power is below this value counts as silent
_HEARD = 0.5  # weight of a listener's sensitivity in the metric; the rest is the identity (LOG.md)
_LEAST = 1e-6  # smallest norm of a gradient, and smallest eigenvalue of a metric


def columns_of(mel: Float[Tensor, "batch mels frames"], config: ResidualCodebookConfig) -> Float[Tensor, "n features"]:
    """Inputs of the encoder's linear map; most silent columns are left out."""
    columns = column_features(mel, config).flatten(0, 1)
    power = columns[:, : config.clip.mels * config.patches]
    return columns[(power.amax(1) > _SILENT) | (torch.rand(len(columns)) < 0.02)]


def sensitivity(
    listener: Listener, codebook: ResidualCodebook, mels: Iterable[Float[Tensor, "batch mels frames"]]
) -> Float[Tensor, "features features"]:
    """How a listener's features change with those of a column: the mean outer product of gradients.

    A gradient is that of the listener's features in a random direction. All gradients of one sound are divided by their joint norm.
    Every second batch is decoded from its codes, because a listener reacts otherwise to sounds with errors.

    Args:
        listener: in evaluation mode, without gradients.
        codebook: fitted; its config defines the features.
        mels: batches of mels in [-1, 1], all of the same whole number of columns.
    """
    config, total = codebook.config, torch.zeros(codebook.config.n_features, codebook.config.n_features, dtype=torch.float64)
    for number, mel in enumerate(mels):
        with torch.no_grad():
            features = column_features(mel, config)
            if number % 2:
                codes = codebook.encode(mel, config.clip.rows)
                features = codebook.decoder.linear(codebook.quantize.lookup(codes).transpose(1, 2))
        features.requires_grad_()
        envelope, strength = parts_of(features, config)
        heard = listener.features(to_mel01((envelope + strength * texture(config.clip, 0, mel.shape[2])).clamp(-1, 1)))
        (heard * torch.randn_like(heard)).sum().backward()
        gradients = features.grad / features.grad.square().sum((1, 2), keepdim=True).sqrt().clamp(min=_LEAST)
        total += gradients.flatten(0, 1).double().T @ gradients.flatten(0, 1).double()
    return total


@torch.no_grad()
def fit(
    codebook: ResidualCodebook, columns: Float[Tensor, "n features"], heard: Float[Tensor, "features features"] | None = None
) -> Iterator[float]:
    """Set the linear maps to the PCA of columns, and the codes of each level to k-means centres of the residuals of the levels before.

    Args:
        codebook: a residual codebook of any sizes, changed in place.
        columns: result of `columns_of`, many times as many as codes.
        heard: result of `sensitivity`; distances of columns are half in this metric, half Euclidean. None is Euclidean.

    Yields:
        After each level, the share of the variance that remains.
    """
    config, root = codebook.config, _root(columns, heard)
    weighted = columns @ root
    mean = weighted.mean(0)
    centred = weighted - mean
    basis, back = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, : config.dim], torch.linalg.inv(root)
    codebook.encoder.linear.weight.copy_((root @ basis).T)
    codebook.encoder.linear.bias.copy_(-(basis.T @ mean))
    codebook.decoder.linear.weight.copy_(back @ basis)
    codebook.decoder.linear.bias.copy_(back @ mean)
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


def _root(columns: Float[Tensor, "n features"], heard: Float[Tensor, "features features"] | None) -> Float[Tensor, "features features"]:
    """Symmetric root of the metric. Both halves give the columns the same variance."""
    plain = torch.eye(columns.shape[1], dtype=torch.float64)
    if heard is None:
        return plain.to(columns)
    covariance = torch.cov(columns.T).double()
    metric = _HEARD * heard * (covariance.trace() / (heard * covariance).sum()) + (1 - _HEARD) * plain
    values, vectors = torch.linalg.eigh(metric)
    return ((vectors * values.clamp(min=_LEAST).sqrt()) @ vectors.T).to(columns)


def _tally_in_chunks(vectors: Float[Tensor, "n dim"], centres: Float[Tensor, "codes dim"]) -> tuple[Tensor, Tensor]:
    """Count and sum of the vectors nearest to each centre."""
    parts = [tally(chunk, closest(chunk, centres), len(centres)) for chunk in vectors.split(_CHUNK)]
    return sum(counts for counts, _ in parts), sum(sums for _, sums in parts)
