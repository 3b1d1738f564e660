"""LPAPS: perceptual distance of mel spectrograms, in the features of a sound classifier. Paper section 3.1, equation 3."""

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from unsilent.config import MAX_SIZE, Config
from unsilent.errors import ParameterError
from unsilent.models.band_statistics import BandStatistics, normalise_bands
from unsilent.models.vggishish import MIN_SIZE, VGGishish, convolutions

_CUTS = (3, 8, 15, 22, 29)  # the last ReLU at each resolution: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
_EPSILON = 1e-10  # avoids division by zero where all channels are 0


class PerceptualConfig(Config):
    """Sizes of the network, which are those of the classifier that it comes from."""

    bands: BandStatistics = Field(default=BandStatistics(), description="Band statistics of the classifier.")
    width: int = Field(default=64, gt=0, le=MAX_SIZE, description="Channels of the first convolution.")

    @model_validator(mode="after")
    def _fit(self) -> "PerceptualConfig":
        if self.bands.mels < MIN_SIZE:
            raise ParameterError(f"{self.bands.mels} mel bands are too few for the distance; give {MIN_SIZE} or more.")
        return self


class Perceptual(nn.Module):
    """Distance of mel spectrograms in [-1, 1], for training a codebook; its own weights are frozen:

        d(x, y) = Σ_cuts mean_positions Σ_c w_c (f_c(x) / |f(x)| - f_c(y) / |f(y)|)²

    `f` are ReLU features at the five resolutions, `w` weights of the channels. A new instance has random convolutions: load weights, or
    copy those of a classifier with `from_classifier`.

    Args:
        config: sizes and statistics.

    Source:
        Paper equation 3; Zhang et al. (arXiv 1801.03924) for unit-normalised features and channel weights, as in the released lpaps.py.
        Differs: no dropout before the weights; it makes the released distance random in training. Gradients stay finite if the squares of
        features underflow; the released code gives NaN.
    """

    def __init__(self, config: PerceptualConfig = PerceptualConfig()) -> None:
        super().__init__()
        self.config = config
        self.features = convolutions(config.width)
        widths = [self.features[cut - 1].out_channels for cut in _CUTS]
        self.linear = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in widths)
        for layer in self.linear:
            nn.init.ones_(layer.weight)
        self.requires_grad_(False)

    @classmethod
    def from_classifier(cls, classifier: VGGishish) -> "Perceptual":
        """Copy the convolutions and statistics of a trained classifier; all channel weights are 1, as in equation 3.

        Each cut then contributes the mean of `2 - 2 cos` of the angle between features.
        """
        module = cls(PerceptualConfig(bands=classifier.config.bands, width=classifier.config.width))
        module.features.load_state_dict(classifier.features.state_dict())
        return module.to(next(classifier.parameters()).device)

    def forward(self, mel: Float[Tensor, "batch mels frames"], other: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch"]:
        """Distance of each mel from its counterpart, both in [-1, 1]; 0 for equal ones, symmetric.

        Raises:
            ParameterError: if the bands do not match the statistics, or there are fewer than 16 frames.
        """
        distances = [
            layer((one - two).square()).mean(dim=(1, 2, 3))
            for layer, one, two in zip(self.linear, self._unit_features(mel), self._unit_features(other), strict=True)
        ]
        return torch.stack(distances).sum(dim=0)

    def _unit_features(self, mel: Float[Tensor, "batch mels frames"]) -> list[Float[Tensor, "batch _ _ _"]]:
        """Features at the five cuts, normalised to length 1 over channels."""
        if mel.shape[2] < MIN_SIZE:
            raise ParameterError(f"{mel.shape[2]} mel frames are too few for the distance, which needs {MIN_SIZE} or more.")
        x, unit = normalise_bands((mel + 1) / 2, self.config.bands).unsqueeze(1), []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in _CUTS:
                features = x.float()  # float16 would round `_EPSILON` to zero
                # unlike the root of a sum of squares, the gradient of `vector_norm` at zero is zero, not NaN
                unit.append(features / (torch.linalg.vector_norm(features, dim=1, keepdim=True) + _EPSILON))
        return unit


def released_names(module: Perceptual) -> dict[str, str]:
    """Map from the released distance's state-dict names to ours.

    Its `scaling_layer.shift` and `.scale` are missing: they are `2 * mean - 1` and `2 * std` of the statistics in the configuration.
    """
    return {_released(name): name for name in module.state_dict()}


def _released(name: str) -> str:
    part, index, leaf = name.split(".")
    if part == "linear":
        return f"lin{index}.model.1.{leaf}"
    slice_ = 1 + sum(int(index) > cut for cut in _CUTS)
    return f"net.slice{slice_}.{index}.{leaf}"
