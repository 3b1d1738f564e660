"""The paper's vocoder: one convolutional pass from a mel spectrogram to samples.

Every stage lengthens time by a ratio with a transposed convolution and cleans up with dilated residual blocks.
"""

from itertools import pairwise
from math import prod

from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import weight_norm

from unsilent.config import Config
from unsilent.errors import ParameterError

_EDGE = 3  # frames or samples that the outer convolutions of width 7 see on each side
SLOPE = 0.2  # of every leaky rectifier


class MelGANConfig(Config):
    """Sizes of the generator; the defaults are the paper's."""

    mels: int = Field(default=80, gt=0)  # bands of the mel spectrogram
    width: int = Field(default=32, gt=0)  # channels at the sample rate; doubled by each stage on the way down to mel frames
    ratios: tuple[int, ...] = Field(default=(8, 8, 2, 2), min_length=1)  # how much longer each stage makes time; their product is the hop
    residual_blocks: int = Field(default=3, gt=0)  # per stage, with dilations 1, 3, 9...


class Residual(nn.Module):
    """A dilated convolution of width 3 and a pointwise one, added to a pointwise shortcut."""

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
        config: sizes; `prod(ratios)` samples come out for each mel frame.

    Source:
        Kumar et al., MelGAN (arXiv 1910.06711), as in the paper's section 3.3. The layers stand at the released generator's indices, so
        that `model.3.weight_g` there is `layers.3.parametrizations.weight.original0` here.
    """

    def __init__(self, config: MelGANConfig = MelGANConfig()) -> None:
        super().__init__()
        self.config = config
        widths = [config.width * 2**depth for depth in range(len(config.ratios), -1, -1)]
        layers: list[nn.Module] = [nn.ReflectionPad1d(_EDGE), weight_norm(nn.Conv1d(config.mels, widths[0], 2 * _EDGE + 1))]
        for ratio, (wide, narrow) in zip(config.ratios, pairwise(widths), strict=True):
            layers += [nn.LeakyReLU(SLOPE), weight_norm(_lengthen(wide, narrow, ratio))]
            layers += [Residual(narrow, 3**depth) for depth in range(config.residual_blocks)]
        layers += [nn.LeakyReLU(SLOPE), nn.ReflectionPad1d(_EDGE), weight_norm(nn.Conv1d(widths[-1], 1, 2 * _EDGE + 1)), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    @property
    def hop(self) -> int:
        """Samples made from one mel frame: 256 in the paper."""
        return prod(self.config.ratios)

    @property
    def context_frames(self) -> int:
        """Mel frames on each side that a sample can depend on: chunks with this much overlap sound as the whole would."""
        first, last = -_EDGE, self.hop - 1 + _EDGE  # what the samples of frame 0 read, followed from the output back to the mel
        reach = sum(3**depth for depth in range(self.config.residual_blocks))
        for ratio in reversed(self.config.ratios):
            first, last = first - reach, last + reach
            padding = _transposed_padding(ratio)
            # Input i of a transposed convolution writes outputs i * ratio - padding up to 2 * ratio - 1 further.
            first, last = -((2 * ratio - 1 - padding - first) // ratio), (last + padding) // ratio
        return max(_EDGE - first, _EDGE + last)

    def forward(self, mel01: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch samples"]:
        """Make `frames * hop` samples; frame `t` is centred on sample `t * hop`.

        Raises:
            ParameterError: if the number of bands is not the network's, or there are too few frames to reflect at the ends.
        """
        _, mels, frames = mel01.shape
        if mels != self.config.mels:
            raise ParameterError(f"{mels} mel bands do not fit the vocoder, which reads {self.config.mels}.")
        if frames < self._least_frames:
            raise ParameterError(f"{frames} mel frames are too few for the vocoder, which needs {self._least_frames} or more.")
        return self.layers(mel01).squeeze(1)

    @property
    def _least_frames(self) -> int:
        # A reflection must be shorter than what it reflects; the widest one after the first stage is the largest dilation.
        return max(_EDGE, 3 ** (self.config.residual_blocks - 1) // self.config.ratios[0]) + 1

    def remove_weight_norm(self) -> None:
        """Fold the norms into plain weights, for inference: same sound, fewer operations; training needs the norms."""
        for module in self.modules():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight", leave_parametrized=True)


def _transposed_padding(ratio: int) -> int:
    return ratio // 2 + ratio % 2


def _lengthen(wide: int, narrow: int, ratio: int) -> nn.ConvTranspose1d:
    return nn.ConvTranspose1d(wide, narrow, 2 * ratio, stride=ratio, padding=_transposed_padding(ratio), output_padding=ratio % 2)


def released_names(module: MelGAN) -> dict[str, str]:
    """Each name of the released generator's state dict, with its name here.

    Raises:
        ParameterError: if the weight norms of `module` have been folded, as the released file holds them apart.
    """
    names = list(module.state_dict())
    if not any("parametrizations" in name for name in names):
        raise ParameterError("the weight norms of this vocoder are folded; map names before remove_weight_norm().")
    return {_released(name): name for name in names}


def _released(name: str) -> str:
    name = name.replace("layers.", "model.", 1).replace(".body.", ".block.")
    return name.replace(".parametrizations.weight.original0", ".weight_g").replace(".parametrizations.weight.original1", ".weight_v")
