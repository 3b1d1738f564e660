"""MelGAN, the paper's vocoder: one convolutional pass from a mel spectrogram to samples.

Each stage upsamples by a transposed convolution, followed by dilated residual blocks.
"""

from itertools import pairwise
from math import prod

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from unsilent.errors import ParameterError
from unsilent.models.configs import MelGANConfig

_EDGE = 3  # padding of the first and last convolution, whose kernel size is 7
SLOPE = 0.2  # negative slope of the leaky ReLUs


class Residual(nn.Module):
    """A dilated convolution of kernel size 3 and a pointwise one, added to a pointwise shortcut."""

    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.LeakyReLU(SLOPE),
            nn.ReflectionPad1d(dilation),
            weight_norm(nn.Conv1d(width, width, kernel_size=3, dilation=dilation)),
            nn.LeakyReLU(SLOPE),
            weight_norm(nn.Conv1d(width, width, kernel_size=1)),
        )
        self.shortcut = weight_norm(nn.Conv1d(width, width, kernel_size=1))

    def forward(self, x: Float[Tensor, "batch width samples"]) -> Float[Tensor, "batch width samples"]:
        """Keep shape."""
        return self.shortcut(x) + self.body(x)


class MelGAN(nn.Module):
    """Mel spectrogram in [0, 1] to waveform in [-1, 1], with weight normalisation as trained.

    Args:
        config: sizes; each mel frame gives `prod(ratios)` samples.

    Source:
        Kumar et al., MelGAN (arXiv 1910.06711), as in the paper's section 3.3. Layers have the released generator's indices:
        `model.3.weight_g` there is `layers.3.parametrizations.weight.original0` here.
    """

    def __init__(self, config: MelGANConfig = MelGANConfig()) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**depth for depth in range(len(config.ratios), -1, -1)]
        layers: list[nn.Module] = [nn.ReflectionPad1d(_EDGE), weight_norm(nn.Conv1d(config.mels, widths[0], 2 * _EDGE + 1))]
        for ratio, (wide, narrow) in zip(config.ratios, pairwise(widths), strict=True):
            layers += [nn.LeakyReLU(SLOPE), weight_norm(_upsample(wide, narrow, ratio))]
            layers += [Residual(narrow, 3**depth) for depth in range(config.residual_blocks)]
        layers += [nn.LeakyReLU(SLOPE), nn.ReflectionPad1d(_EDGE), weight_norm(nn.Conv1d(widths[-1], 1, 2 * _EDGE + 1)), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    @property
    def hop(self) -> int:
        """Samples per mel frame: 256 in the paper."""
        return prod(self.config.ratios)

    @property
    def context_frames(self) -> int:
        """Receptive field: mel frames on each side that a sample can depend on. Chunks with this overlap give the waveform of one pass."""
        # range of inputs that the samples of frame 0 depend on, traced from the output back to the mel
        first, last = -_EDGE, self.hop - 1 + _EDGE
        reach = sum(3**depth for depth in range(self.config.residual_blocks))
        for ratio in reversed(self.config.ratios):
            first, last = first - reach, last + reach
            padding = _transposed_padding(ratio)
            # input i of a transposed convolution affects 2 * ratio outputs from i * ratio - padding
            first, last = -((2 * ratio - 1 - padding - first) // ratio), (last + padding) // ratio
        return max(_EDGE - first, _EDGE + last)

    def forward(self, mel01: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch samples"]:
        """Waveform of `frames * hop` samples; frame `t` is centred on sample `t * hop`.

        Raises:
            ParameterError: if the bands do not match, or there are too few frames for reflection padding.
        """
        _, mels, frames = mel01.shape
        if mels != self.config.mels:
            raise ParameterError(f"a mel of {mels} bands was given; the vocoder takes {self.config.mels}.")
        if frames < self._least_frames:
            raise ParameterError(f"{frames} mel frames are too few for the vocoder, which needs {self._least_frames} or more.")
        return self.layers(mel01).squeeze(1)

    @property
    def _least_frames(self) -> int:
        # reflection padding must be shorter than its input; the largest padding after the first stage is the largest dilation
        return max(_EDGE, 3 ** (self.config.residual_blocks - 1) // self.config.ratios[0]) + 1

    def remove_weight_norm(self) -> None:
        """Fold the norms into plain weights, for inference; training needs the norms."""
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def _transposed_padding(ratio: int) -> int:
    return ratio // 2 + ratio % 2


def _upsample(wide: int, narrow: int, ratio: int) -> nn.ConvTranspose1d:
    return nn.ConvTranspose1d(wide, narrow, 2 * ratio, stride=ratio, padding=_transposed_padding(ratio), output_padding=ratio % 2)


def released_names(module: MelGAN) -> dict[str, str]:
    """Map from the released generator's state-dict names to ours.

    Raises:
        ParameterError: if the weight norms of `module` are folded; the released file stores them separately.
    """
    names = list(module.state_dict())
    if not any("parametrizations" in name for name in names):
        raise ParameterError("the weight norms of this vocoder are folded; map names before remove_weight_norm().")
    return {_released(name): name for name in names}


def _released(name: str) -> str:
    name = name.replace("layers.", "model.", 1).replace(".body.", ".block.")
    return name.replace(".parametrizations.weight.original0", ".weight_g").replace(".parametrizations.weight.original1", ".weight_v")
