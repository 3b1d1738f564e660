"""GAN discriminators: PatchGAN for mel spectrograms (codebook training), multi-scale for waveforms (vocoder training)."""

from itertools import pairwise

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from unsilent.config import MAX_DEPTH, MAX_SIZE, Config
from unsilent.errors import ParameterError

_SLOPE = 0.2  # negative slope of the leaky ReLUs
_MAX_CHANNELS = 1024  # largest number of channels in the waveform discriminator
_GROUP = 4  # input channels per group of the waveform discriminator's strided convolutions


class PatchDiscriminatorConfig(Config):
    """Sizes of the mel discriminator; the defaults are the paper's (2.8 M parameters)."""

    width: int = Field(default=64, gt=0, le=MAX_SIZE, description="Channels of the first convolution.")
    halvings: int = Field(
        default=3, gt=0, le=MAX_DEPTH, description="Strided convolutions; each except the first doubles the channels, up to 8 * width."
    )


class PatchDiscriminator(nn.Module):
    """PatchGAN: mel spectrogram in [-1, 1] to a grid of logits, one per patch; positive means real.

    Source:
        Isola et al. (arXiv 1611.07004) as in the released NLayerDiscriminator, whose parameter names and initialisation it shares.
    """

    def __init__(self, config: PatchDiscriminatorConfig = PatchDiscriminatorConfig()) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * min(2**depth, 8) for depth in range(config.halvings + 1)]
        layers: list[nn.Module] = [nn.Conv2d(1, widths[0], 4, stride=2, padding=1), nn.LeakyReLU(_SLOPE, inplace=True)]
        for depth, (narrow, wide) in enumerate(pairwise(widths), start=1):
            stride = 2 if depth < config.halvings else 1
            # no bias: BatchNorm has its own
            layers += [nn.Conv2d(narrow, wide, 4, stride, padding=1, bias=False), nn.BatchNorm2d(wide), nn.LeakyReLU(_SLOPE, inplace=True)]
        layers.append(nn.Conv2d(widths[-1], 1, 4, padding=1))
        self.main = nn.Sequential(*layers)
        for layer in self.main:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.02)
            elif isinstance(layer, nn.BatchNorm2d):
                nn.init.normal_(layer.weight, mean=1.0, std=0.02)

    def forward(self, mel: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch rows columns"]:
        """Logits of overlapping patches: 8 x 104 for a mel of 80 x 848.

        Raises:
            ParameterError: if the mel is smaller than one patch.
        """
        least = 3 * 2**self.config.halvings  # each of the last two convolutions shortens the grid by one
        if min(mel.shape[1:]) < least:
            raise ParameterError(
                f"a mel of {mel.shape[1]} bands and {mel.shape[2]} frames is too small for the discriminator; give {least} or more of each."
            )
        return self.main(mel.unsqueeze(1)).squeeze(1)


class MelGANDiscriminatorConfig(Config):
    """Sizes of the waveform discriminator; the defaults are the paper's (16.9 M parameters)."""

    scales: int = Field(default=3, gt=0, le=MAX_DEPTH, description="Sample rates; each scale runs at half the rate of the one before.")
    width: int = Field(default=16, gt=0, le=MAX_SIZE, multiple_of=_GROUP, description="Channels of the first convolution.")
    strides: int = Field(default=4, gt=0, le=MAX_DEPTH, description="Strided convolutions per scale.")
    ratio: int = Field(default=4, gt=1, le=MAX_SIZE, description="Stride of each convolution, and factor of its channels.")


class Scale(nn.Module):
    """The discriminator of one sample rate."""

    def __init__(self, config: MelGANDiscriminatorConfig) -> None:
        super().__init__()
        ratio, width = config.ratio, config.width
        layers: list[nn.Module] = [nn.Sequential(nn.ReflectionPad1d(7), weight_norm(nn.Conv1d(1, width, 15)), nn.LeakyReLU(_SLOPE))]
        for _ in range(config.strides):
            wide = min(width * ratio, _MAX_CHANNELS)
            strided = nn.Conv1d(width, wide, 10 * ratio + 1, stride=ratio, padding=5 * ratio, groups=width // _GROUP)
            layers.append(nn.Sequential(weight_norm(strided), nn.LeakyReLU(_SLOPE)))
            width = wide
        wide = min(2 * width, _MAX_CHANNELS)
        layers.append(nn.Sequential(weight_norm(nn.Conv1d(width, wide, 5, padding=2)), nn.LeakyReLU(_SLOPE)))
        layers.append(weight_norm(nn.Conv1d(wide, 1, 3, padding=1)))
        self.layers = nn.ModuleList(layers)

    def forward(self, waveform: Float[Tensor, "batch 1 samples"]) -> list[Float[Tensor, "batch _ _"]]:
        """Feature maps of all layers, `[batch, channels, samples]`; the last are the logits, of one channel."""
        maps = [waveform]
        for layer in self.layers:
            maps.append(layer(maps[-1]))
        return maps[1:]


class MelGANDiscriminator(nn.Module):
    """Waveform in [-1, 1] to logits at three sample rates; positive means real.

    Source:
        Kumar et al., MelGAN (arXiv 1910.06711) section 2.2, as released. `model.disc_0.model.layer_1.0.weight_g` there is
        `scales.0.layers.1.0.parametrizations.weight.original0` here.
    """

    def __init__(self, config: MelGANDiscriminatorConfig = MelGANDiscriminatorConfig()) -> None:
        super().__init__()
        self.config = config
        self.scales = nn.ModuleList(Scale(config) for _ in range(config.scales))
        self.halve = nn.AvgPool1d(4, stride=2, padding=1, count_include_pad=False)

    def forward(self, waveform: Float[Tensor, "batch samples"]) -> list[list[Float[Tensor, "batch _ _"]]]:
        """For each scale, the feature maps of all layers; the last are the logits `[batch, 1, samples]`.

        Raises:
            ParameterError: if there are too few samples for the lowest rate.
        """
        least = 8 * 2 ** (self.config.scales - 1)  # reflection padding of 7 needs 8 samples
        if waveform.shape[1] < least:
            raise ParameterError(f"{waveform.shape[1]} samples are too few for the discriminator, which needs {least} or more.")
        x, results = waveform.unsqueeze(1), []
        for index, scale in enumerate(self.scales):
            x = self.halve(x) if index else x
            results.append(scale(x))
        return results


def released_names(module: MelGANDiscriminator) -> dict[str, str]:
    """Map from the released waveform discriminator's state-dict names to ours. The mel discriminator shares its names."""
    return {_released(name): name for name in module.state_dict()}


def _released(name: str) -> str:
    name = name.replace("scales.", "model.disc_", 1).replace(".layers.", ".model.layer_", 1)
    return name.replace(".parametrizations.weight.original0", ".weight_g").replace(".parametrizations.weight.original1", ".weight_v")
