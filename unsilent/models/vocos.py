"""A vocoder that predicts a short-time spectrum and inverts it: all work happens once per frame, none per sample.

In the manner of Vocos (arXiv 2306.00814): ConvNeXt blocks over mel frames, then a head giving log-magnitude and phase for an inverse STFT.
Ours knows what it was asked for: magnitudes are brought to the mel's bands, so that the network learns only what a mel leaves open, and
what the inversion mixes up between frames is set right in some rounds afterwards.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from unsilent.clip import Clip
from unsilent.config import Config
from unsilent.errors import ParameterError
from unsilent.signal.consistency import Agreement


class VocosConfig(Config):
    """Sizes of an iSTFT-head vocoder; the defaults are those of the `everyday` model."""

    clip: Clip = Clip()
    width: int = Field(default=256, gt=0)  # channels of the frame-rate trunk
    hidden: int = Field(default=768, gt=0)  # channels inside a block
    n_blocks: int = Field(default=8, gt=0)
    kernel: int = Field(default=7, gt=0)  # frames seen by one block; odd
    rounds: int = Field(default=20, ge=0)  # of agreement between sound and mel, after training; each costs two transforms

    @model_validator(mode="after")
    def _can_invert(self) -> "VocosConfig":
        if 2 * self.clip.hop > self.clip.n_fft:
            raise ParameterError(
                f"a hop of {self.clip.hop} is more than half of an FFT of {self.clip.n_fft}: no sound is left between windows."
            )
        return self


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a two-layer perceptron per frame, added with a learned small scale."""

    def __init__(self, width: int, hidden: int, kernel: int, scale: float) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.expand = nn.Linear(width, hidden)
        self.contract = nn.Linear(hidden, width)
        self.scale = nn.Parameter(torch.full((width,), scale))

    def forward(self, x: Float[Tensor, "batch width frames"]) -> Float[Tensor, "batch width frames"]:
        """Keep shape."""
        inner = self.norm(self.depthwise(x).transpose(1, 2))
        return x + (self.scale * self.contract(F.gelu(self.expand(inner)))).transpose(1, 2)


class Vocos(nn.Module):
    """Mel spectrogram in [0, 1] to waveform in [-1, 1]."""

    def __init__(self, config: VocosConfig) -> None:
        super().__init__()
        self.config = config
        bins = config.clip.n_fft // 2 + 1
        self.embed = nn.Conv1d(config.clip.mels, config.width, config.kernel, padding=config.kernel // 2)
        self.norm_in = nn.LayerNorm(config.width, eps=1e-6)
        self.blocks = nn.ModuleList(
            ConvNeXtBlock(config.width, config.hidden, config.kernel, 1 / config.n_blocks) for _ in range(config.n_blocks)
        )
        self.norm_out = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, 2 * bins)

    @property
    def hop(self) -> int:
        """Samples per mel frame."""
        return self.config.clip.hop

    @property
    def context_frames(self) -> int:
        """Mel frames on each side that a sample can depend on: chunks with this much overlap sound as the whole would."""
        overlapping = self.config.clip.n_fft // self.config.clip.hop  # frames whose windows reach a sample
        return (self.config.n_blocks + 1) * (self.config.kernel // 2) + overlapping + self.config.rounds * (overlapping - 1)

    def forward(self, mel01: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch samples"]:
        """`frames * hop` samples; frame `t` is centred on sample `t * hop`. Rounds of agreement are for evaluation mode only."""
        x = self.norm_in(self.embed(mel01).transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        log_magnitude, phase = self.head(self.norm_out(x.transpose(1, 2))).float().chunk(2, dim=2)
        # exp is cut at e^7: the largest magnitude that a full-scale sound can have under this window is n_fft / 2
        spectrum = torch.polar(log_magnitude.clamp(max=7.0).exp(), phase)
        # The STFT of n samples has n / hop + 1 frames; the mel has one fewer, so the last is repeated for the very end.
        agreement = Agreement(torch.cat([mel01, mel01[..., -1:]], dim=2).float(), self.config.clip)
        waveform = agreement.sound(torch.cat([spectrum, spectrum[:, -1:]], dim=1))
        return agreement.settle(waveform, 0 if self.training else self.config.rounds).clamp(-1, 1)
