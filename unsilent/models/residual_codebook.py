"""A codebook by residual vector quantisation: PCA of mel columns, several codes per column, a linear decoder that adds noise texture.

batch    mel spectrograms side by side
columns  code columns; one is `clip.downsampling` mel frames (16)
levels   codes of one column, rows of the grid; each level quantises the residual of those before
dim      width of a latent and of a code
patch    mel frames (4) whose mean power is encoded
patches  patches in one column (4)
groups   groups of neighbouring bands (5); the level of each group is coded for each frame
textures groups of neighbouring bands (10); the strength of fluctuation in each group is coded for each column

Rows of the grid are levels here, not frequency bands. The first rows on their own are a coarser code of the same sound.

The codes describe a column by three features: the mean power of each band over patches of four frames; the level of groups of bands
relative to it, frame by frame, because attacks and pulses are short and common to many bands; and the strength of the remaining
fluctuation. The decoder adds a noise texture of that strength, because listeners cannot distinguish realisations of noise. The decoder is
linear: networks trained with distances between mels smoothed away the details by which listeners recognise sounds (LOG.md).
"""

from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from unsilent.clip import Clip
from unsilent.errors import ParameterError
from unsilent.models.codebook import Codebook
from unsilent.models.configs import ResidualCodebookConfig
from unsilent.signal.mel import RANGE_DB, log_mel01

_LOG_POWER = RANGE_DB / 20 * float(np.log(10.0))  # a mel in [-1, 1] times this is the natural logarithm of power, up to a constant
_NOISE_STD = 0.1  # standard deviation of the white noise of textures: far from the mel's floor and ceiling
_MAX_STRENGTH = 1.5  # largest strength of the texture; white noise has 1
_GROUP_SCALE = 2.0  # weight of a group's level relative to a band's level, because a group stands for many bands (LOG.md)
_TEXTURE_SCALE = 0.3  # weight of the log standard deviation of a texture relative to a band's level (LOG.md)
_LEAST_VARIANCE = 1e-5  # added to the variance of a texture before the logarithm
TEXTURE_CLIPS = 6  # period of the texture: a minute at the paper's grid


@lru_cache(maxsize=4)
def _texture_period(clip: Clip) -> np.ndarray:
    noise = torch.randn(1, TEXTURE_CLIPS * clip.n_samples, generator=torch.Generator().manual_seed(0)) * _NOISE_STD
    with torch.autocast("cpu", enabled=False):  # cached, so it must not depend on the first caller's autocast
        mel = log_mel01(noise, clip)[0] * 2
    return (mel - mel.mean(1, keepdim=True)).numpy()


def texture(clip: Clip, start: int, frames: int) -> Float[Tensor, "mels frames"]:
    """Fluctuation of the mel of stationary white noise around its mean; equal frame numbers give equal values.

    Args:
        clip: the time and frequency grid.
        start: number of the first frame; the texture repeats after `TEXTURE_CLIPS` clips.
        frames: number of frames.

    Returns:
        Offsets in units of mels in [-1, 1]: mean 0, standard deviation 0.11 (5.5 dB) in the lowest bands and 0.04 in the highest.
    """
    period = _texture_period(clip)
    return torch.from_numpy(period[:, np.arange(start, start + frames) % period.shape[1]])


def patch_power(mel: Float[Tensor, "batch mels frames"], patch: int) -> Float[Tensor, "batch mels positions"]:
    """Mean power of each band over patches of frames, as mel values in [-1, 1] again."""
    return ((mel * _LOG_POWER).unflatten(2, (-1, patch)).logsumexp(3) - float(np.log(patch))) / _LOG_POWER


@lru_cache(maxsize=4)
def _noise_deviations(clip: Clip, textures: int) -> Float[Tensor, "textures"]:
    """Standard deviation of the texture of white noise in each group of bands."""
    return texture(clip, 0, TEXTURE_CLIPS * clip.frames).square().unflatten(0, (textures, -1)).mean((1, 2)).sqrt()


def column_features(mel: Float[Tensor, "batch mels frames"], config: ResidualCodebookConfig) -> Float[Tensor, "batch columns features"]:
    """Features of each column: power of patches of each band, level of groups of bands by frame, strength of the remaining fluctuation."""
    power, each = patch_power(mel, config.patch), config.clip.downsampling
    features, left = [_by_column(power, config.patches)], mel - power.repeat_interleave(config.patch, 2)
    if config.groups:
        level = left.unflatten(1, (config.groups, -1)).mean(2)
        features.append(_by_column(level * _GROUP_SCALE, each))
        left = left - level.repeat_interleave(left.shape[1] // config.groups, 1)
    if config.textures:
        variance = left.square().unflatten(1, (config.textures, -1)).mean(2).unflatten(2, (-1, each)).mean(3)
        features.append((variance + _LEAST_VARIANCE).log().transpose(1, 2) * (0.5 * _TEXTURE_SCALE))
    return torch.cat(features, 2)


def _by_column(x: Float[Tensor, "batch rows positions"], each: int) -> Float[Tensor, "batch columns features"]:
    return x.unflatten(2, (-1, each)).transpose(1, 2).flatten(2)


def _by_row(x: Float[Tensor, "batch columns features"], rows: int) -> Float[Tensor, "batch rows positions"]:
    return x.unflatten(2, (rows, -1)).transpose(1, 2).flatten(2)


class ResidualQuantizer(nn.Module):
    """Residual vector quantisation with beam search.

    The nearest code of one level is not always best for the following levels. So `beam` candidates are kept, and the one with the smallest
    final error is chosen. Codes are a buffer, because training fits them by k-means.
    """

    def __init__(self, levels: int, n_codes: int, dim: int, beam: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(levels, n_codes, dim))
        if not self.codes.is_meta:  # torch would import sympy to draw on meta tensors
            self.codes.normal_(std=1 / n_codes)
        self.beam = beam

    @torch.no_grad()
    def nearest(self, latents: Float[Tensor, "batch dim columns"], levels: int | None = None) -> Int[Tensor, "batch levels columns"]:
        """Codes of all levels, or the best codes of the first `levels`."""
        codebooks: Float[Tensor, "levels codes dim"] = self.codes[:levels].float()
        vectors = latents.transpose(1, 2)
        with torch.autocast(vectors.device.type, enabled=False):  # bfloat16 cannot distinguish close codes
            residuals = vectors.flatten(0, 1).float()[:, None]  # [positions, candidates, dim]
            chosen = torch.zeros(len(residuals), 1, 0, dtype=torch.long, device=residuals.device)
            for codes in codebooks:
                # |v - e|^2 of all candidates and codes
                distances = (codes.square().sum(1) - 2 * residuals @ codes.T + residuals.square().sum(2, keepdim=True)).flatten(1)
                best = distances.topk(min(self.beam, distances.shape[1]), largest=False).indices
                candidate, code = best // len(codes), best % len(codes)
                residuals = residuals.gather(1, candidate[..., None].expand(-1, -1, residuals.shape[2])) - codes[code]
                chosen = torch.cat([chosen.gather(1, candidate[..., None].expand(-1, -1, chosen.shape[2])), code[..., None]], 2)
        return chosen[:, 0].unflatten(0, vectors.shape[:2]).transpose(1, 2)

    def lookup(self, grid: Int[Tensor, "batch levels columns"]) -> Float[Tensor, "batch dim columns"]:
        """Sum of the codes of each column; a grid of fewer rows gives a coarser sum."""
        return torch.stack([F.embedding(row, codes) for row, codes in zip(grid.unbind(1), self.codes, strict=False)]).sum(0).transpose(1, 2)


class ResidualEncoder(nn.Module):
    """Mel to one latent per column: a linear map (PCA) of the column's features."""

    def __init__(self, config: ResidualCodebookConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.n_features, config.dim)

    def forward(self, mel: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch dim columns"]:
        """One latent per column."""
        return self.linear(column_features(mel, self.config)).transpose(1, 2)


class ResidualDecoder(nn.Module):
    """Latents to mel: the inverse PCA, plus a noise texture of the decoded strength."""

    def __init__(self, config: ResidualCodebookConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.dim, config.n_features)

    def forward(
        self, latents: Float[Tensor, "batch dim columns"], noise: Float[Tensor, "#batch mels frames"]
    ) -> Float[Tensor, "batch mels frames"]:
        """Mel around [-1, 1], not clipped.

        Args:
            latents: latent of each column.
            noise: texture of white noise, which is added with a decoded strength in [0, 1.5].
        """
        envelope, strength = self.parts(latents)
        return envelope + strength * noise

    def parts(
        self, latents: Float[Tensor, "batch dim columns"]
    ) -> tuple[Float[Tensor, "batch mels frames"], Float[Tensor, "batch mels frames"]]:
        """Envelope and strength of the texture."""
        config = self.config
        mels, each = config.clip.mels, config.clip.downsampling
        with torch.autocast(latents.device.type, enabled=False):  # bfloat16 would round to 0.2 dB, and float32 is fast enough
            features = self.linear(latents.float().transpose(1, 2))
        power, level, spread = features.split([mels * config.patches, config.groups * each, config.textures], 2)
        envelope = _by_row(power, mels).repeat_interleave(config.patch, 2)
        if config.groups:
            envelope = envelope + _by_row(level / _GROUP_SCALE, config.groups).repeat_interleave(mels // config.groups, 1)
        if not config.textures:
            return envelope, torch.ones_like(envelope)
        strength = ((spread / _TEXTURE_SCALE).exp() / _noise_deviations(config.clip, config.textures).to(spread)).transpose(1, 2)
        strength = strength.clamp(max=_MAX_STRENGTH).repeat_interleave(mels // config.textures, 1).repeat_interleave(each, 2)
        return envelope, strength


class ResidualCodebook(nn.Module):
    """Encoder, residual quantiser and decoder of mel spectrograms in [-1, 1] with any number of whole columns."""

    def __init__(self, config: ResidualCodebookConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = ResidualEncoder(config)
        self.quantize = ResidualQuantizer(config.levels, config.n_codes, config.dim, config.beam)
        self.decoder = ResidualDecoder(config)

    @property
    def rows(self) -> int:
        """Rows of the grid of `encode`: all levels. A sampler predicts only the first of them."""
        return self.config.levels

    def latents(self, mel: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch dim columns"]:
        """Encode without quantising.

        Args:
            mel: in [-1, 1].

        Raises:
            ParameterError: if there are not `clip.mels` bands, or the frames are not a positive multiple of a column.
        """
        clip = self.config.clip
        if mel.shape[1] != clip.mels or mel.shape[2] % clip.downsampling or not mel.shape[2]:
            raise ParameterError(
                f"a mel of {mel.shape[1]} bands and {mel.shape[2]} frames was given; the codebook takes {clip.mels} bands and a "
                f"positive multiple of {clip.downsampling} frames."
            )
        return self.encoder(mel)

    def encode(self, mel: Float[Tensor, "batch mels frames"], levels: int | None = None) -> Int[Tensor, "batch levels columns"]:
        """Mel in [-1, 1] to codes of all levels, or of the first `levels`; row 0 is the coarsest."""
        return self.quantize.nearest(self.latents(mel), levels)

    def decode_codes(self, grid: Int[Tensor, "batch levels columns"], start_column: int = 0) -> Float[Tensor, "batch mels frames"]:
        """Codes of all levels, or of the first levels, to mel around [-1, 1], not clipped.

        Args:
            grid: codes.
            start_column: position of the grid in the whole sound, so that overlapping windows have the same texture.
        """
        latents, each = self.quantize.lookup(grid), self.config.clip.downsampling
        return self.decoder(latents, texture(self.config.clip, start_column * each, grid.shape[2] * each)[None].to(latents))


AnyCodebook = Codebook | ResidualCodebook
