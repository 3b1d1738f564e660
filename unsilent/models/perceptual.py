"""LPAPS: how differently two mel spectrograms look to a sound classifier. Paper section 3.1, equation 3."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from unsilent.config import Config
from unsilent.errors import ParameterError
from unsilent.models.band_statistics import BandStatistics, normalise_bands
from unsilent.models.vggishish import LEAST, VGGishish, convolutions

_CUTS = (3, 8, 15, 22, 29)  # the last rectifier at each resolution: relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
_TINY = 1e-10  # keeps positions where nothing is active from dividing by zero


class PerceptualConfig(Config):
    """Sizes of the distance's network; they must be those of the classifier it is taken from."""

    bands: BandStatistics = BandStatistics()
    width: int = Field(default=64, gt=0)  # channels of the first convolution

    @model_validator(mode="after")
    def _fit(self) -> "PerceptualConfig":
        if self.bands.mels < LEAST:
            raise ParameterError(f"{self.bands.mels} mel bands are too few for the distance, give {LEAST} or more.")
        return self


class Perceptual(nn.Module):
    """Distance of mel spectrograms in [-1, 1], for training a codebook; its own weights stay as they are.

    A new one has random convolutions and is of no use: load weights, or take them from a classifier with `from_classifier`.

    Args:
        config: sizes and statistics.

    Source:
        Paper equation 3; Zhang et al. (arXiv 1801.03924) for the unit-normalised features and the weight of each channel, as in the
        released lpaps.py. Differs: no dropout before the weights, which the released code leaves active while it trains, so that the
        same two mels get another distance each time; gradients are finite also where features are so weak that their squares round to
        zero, which are not a number there.
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
    def from_classifier(cls, classifier: VGGishish, linear_weights: Sequence[Float[Tensor, "_"]] | None = None) -> "Perceptual":
        """Build the distance from the convolutions of a trained classifier, which are copied.

        Args:
            classifier: its statistics are taken over too.
            linear_weights: one number per channel for each of the five cuts, none below zero if it is to be a distance. None weighs all
                channels by 1, as equation 3 does: each cut then says `2 - 2 cos` of the angle between features, on average.

        Raises:
            ParameterError: if `linear_weights` do not fit the channels of the cuts.
        """
        module = cls(PerceptualConfig(bands=classifier.config.bands, width=classifier.config.width))
        module.features.load_state_dict(classifier.features.state_dict())
        if linear_weights is not None:
            wanted, found = [layer.weight.numel() for layer in module.linear], [weight.numel() for weight in linear_weights]
            if wanted != found:
                raise ParameterError(f"linear weights of {found} channels given, the cuts have {wanted}.")
            with torch.no_grad():
                for layer, weight in zip(module.linear, linear_weights, strict=True):
                    layer.weight.copy_(weight.reshape(layer.weight.shape))
        return module.to(next(classifier.parameters()).device)

    def forward(self, mel: Float[Tensor, "batch mels frames"], other: Float[Tensor, "batch mels frames"]) -> Float[Tensor, "batch"]:
        """Distance of each mel from its other, both in [-1, 1]; 0 for equal ones, the same both ways.

        Raises:
            ParameterError: if bands are not those of the statistics, or there are fewer than 16 frames.
        """
        distances = [
            layer((one - two).square()).mean(dim=(1, 2, 3))
            for layer, one, two in zip(self.linear, self._directions(mel), self._directions(other), strict=True)
        ]
        return torch.stack(distances).sum(dim=0)

    def _directions(self, mel: Tensor) -> list[Tensor]:
        """Features at the five cuts, of length one over channels."""
        if mel.shape[2] < LEAST:
            raise ParameterError(f"{mel.shape[2]} mel frames are too few for the distance, which needs {LEAST} or more.")
        x, directions = normalise_bands((mel + 1) / 2, self.config.bands).unsqueeze(1), []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in _CUTS:
                strength = x.float()  # half precision would round `_TINY` to zero
                # Unlike the root of a sum of squares, `vector_norm` has a gradient of zero at zero rather than none.
                directions.append(strength / (torch.linalg.vector_norm(strength, dim=1, keepdim=True) + _TINY))
        return directions


def released_names(module: Perceptual) -> dict[str, str]:
    """Each name of the released distance's state dict, with its name here.

    Its `scaling_layer.shift` and `.scale` have none: they are `2 * mean - 1` and `2 * std` of the statistics in the configuration.
    """
    return {_released(name): name for name in module.state_dict()}


def _released(name: str) -> str:
    part, index, leaf = name.split(".")
    if part == "linear":
        return f"lin{index}.model.1.{leaf}"
    slice_ = 1 + sum(int(index) > cut for cut in _CUTS)
    return f"net.slice{slice_}.{index}.{leaf}"
