"""A vocoder that predicts a short-time spectrum and inverts it; the network runs at the frame rate, not at the sample rate.

After Vocos (arXiv 2306.00814): ConvNeXt blocks over mel frames, then a head for log-magnitude and phase of an inverse STFT. Differs:
magnitudes are scaled to the mel bands before the inversion, so that the network learns only what the mel does not determine. Afterwards the
waveform is refined by STFT and mel consistency (`signal.consistency`).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from unsilent.models.configs import VocosConfig
from unsilent.signal.consistency import ConsistencyRefiner

_MAX_LOG_MAGNITUDE = 7.0  # e^7 is above n_fft / 2, the largest magnitude of a full-scale sound under a Hann window


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, then a two-layer MLP per frame, added with a small learned scale."""

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
        """Receptive field: mel frames on each side that a sample can depend on. Chunks with this overlap give the waveform of one pass."""
        overlapping = self.config.clip.n_fft // self.config.clip.hop  # frames whose windows contain a sample
        return (self.config.n_blocks + 1) * (self.config.kernel // 2) + overlapping + self.config.rounds * (overlapping - 1)

    def forward(self, mel01: Float[Tensor, "batch mels frames"], iterations: int | None = None) -> Float[Tensor, "batch samples"]:
        """Waveform of `frames * hop` samples; frame `t` is centred on sample `t * hop`.

        Args:
            mel01: mel in [0, 1].
            iterations: iterations of the consistency refinement; None takes `rounds` of the configuration. Training uses 0.
        """
        x = self.norm_in(self.embed(mel01).transpose(1, 2)).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        # each [batch, frames, bins]
        log_magnitude, phase = self.head(self.norm_out(x.transpose(1, 2))).float().chunk(2, dim=2)
        spectrum = torch.polar(log_magnitude.clamp(max=_MAX_LOG_MAGNITUDE).exp(), phase)
        # n samples have n / hop + 1 STFT frames but only n / hop mel frames, so the last mel frame is repeated
        refiner = ConsistencyRefiner(torch.cat([mel01, mel01[..., -1:]], dim=2).float(), self.config.clip)
        waveform = refiner.invert(torch.cat([spectrum, spectrum[:, -1:]], dim=1))
        return refiner.refine(waveform, self.config.rounds if iterations is None else iterations).clamp(-1, 1)
