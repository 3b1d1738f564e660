"""The spectrogram codebook, a VQGAN: encodes a mel spectrogram to a small grid of codes and decodes it. Paper section 3.1.

Networks only; losses and training are in `train.losses` and `train.codebook`.
"""

from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor, nn

from unsilent.errors import ParameterError
from unsilent.models.configs import CodebookConfig
from unsilent.models.layers import Downsample, Middle, Stage, Upsample, norm, swish
from unsilent.models.quantizer import Quantized, Quantizer


class Encoder(nn.Module):
    """Mel spectrogram, as a one-channel image, to latent grid; attention at the lowest resolution only."""

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(1, widths[0], 3, padding=1)
        self.down = nn.ModuleList(
            Stage(widths[max(0, i - 1)], width, config.n_blocks, i == last, Downsample(width) if i < last else None)
            for i, width in enumerate(widths)
        )
        self.mid = Middle(widths[-1])
        self.norm_out = norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], config.dim, 3, padding=1)

    def forward(self, mel: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch dim rows columns"]:
        """One latent vector per 16 bands and 16 frames."""
        x = self.conv_in(mel.unsqueeze(1))
        for stage in self.down:
            x = stage(x)
        return self.conv_out(swish(self.norm_out(self.mid(x))))


class Decoder(nn.Module):
    """Latent grid to mel spectrogram; the mirror of the encoder with one more block per resolution."""

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        widths = [config.channels * m for m in config.multipliers]
        last = len(widths) - 1
        self.conv_in = nn.Conv2d(config.dim, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1])
        # index 0 is the highest resolution, as in the published files; `forward` runs in reverse order
        self.up = nn.ModuleList(
            Stage(widths[min(last, i + 1)], width, config.n_blocks + 1, i == last, Upsample(width) if i > 0 else None)
            for i, width in enumerate(widths)
        )
        self.norm_out = norm(widths[0])
        self.conv_out = nn.Conv2d(widths[0], 1, 3, padding=1)

    def forward(self, latents: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "batch mels frames"]:
        """Mel, approximately in [-1, 1]."""
        x = self.mid(self.conv_in(latents))
        for stage in reversed(self.up):
            x = stage(x)
        return self.conv_out(swish(self.norm_out(x))).squeeze(1)


class Reconstruction(NamedTuple):
    """A decoded mel spectrogram, and the quantiser's result."""

    mel: Float[Tensor, "batch mels frames"]
    quantized: Quantized


class Codebook(nn.Module):
    """Encoder, quantiser and decoder of mel spectrograms in [-1, 1].

    Accepts any number of complete code columns, not only the clip's.
    """

    def __init__(self, config: CodebookConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.quant_conv = nn.Conv2d(config.dim, config.dim, 1)
        self.quantize = Quantizer(config.n_codes, config.dim)
        self.post_quant_conv = nn.Conv2d(config.dim, config.dim, 1)
        self.decoder = Decoder(config)

    @property
    def rows(self) -> int:
        """Rows of the grid: frequency bands of 16 mel bands."""
        return self.config.clip.rows

    def latents(self, mel: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch dim rows columns"]:
        """Encode without quantising.

        Args:
            mel: in [-1, 1].

        Raises:
            ParameterError: if there are not `clip.mels` bands, or the frames do not divide into code columns.
        """
        clip = self.config.clip
        if mel.shape[1] != clip.mels or mel.shape[2] % clip.downsampling or not mel.shape[2]:
            raise ParameterError(
                f"a mel of {mel.shape[1]} bands and {mel.shape[2]} frames was given; the codebook takes {clip.mels} bands and a "
                f"positive multiple of {clip.downsampling} frames."
            )
        return self.quant_conv(self.encoder(mel))

    def encode(self, mel: Float[Tensor, "batch mels frames"]) -> Int[Tensor, "batch rows columns"]:
        """Mel in [-1, 1] to codes; row 0 is the lowest frequency."""
        return self.quantize.nearest(self.latents(mel))

    def decode(self, latents: Float[Tensor, "batch dim rows columns"]) -> Float[Tensor, "batch mels frames"]:
        """Quantised latents to mel, approximately in [-1, 1]."""
        return self.decoder(self.post_quant_conv(latents))

    def decode_codes(self, grid: Int[Tensor, "batch rows columns"], start_column: int = 0) -> Float[Tensor, "batch mels frames"]:
        """Codes to mel, approximately in [-1, 1]; the result is the same at any `start_column` of the whole sound."""
        return self.decode(self.quantize.lookup(grid))

    def forward(self, mel: Float[Tensor, "batch mels frames"]) -> Reconstruction:
        """Encode, quantise and decode, for training."""
        quantized = self.quantize(self.latents(mel))
        return Reconstruction(self.decode(quantized.latents), quantized)


def released_names(module: Codebook) -> dict[str, str]:
    """Map from the released codebook's state-dict names, without its training losses, to ours."""
    return {_released(name): name for name in module.state_dict()}


def _released(name: str) -> str:
    name = name.replace(".shortcut.", ".nin_shortcut.")
    return name.replace(".resample.", ".downsample." if name.startswith("encoder.") else ".upsample.")
