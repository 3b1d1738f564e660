"""The perceptual distance: metric properties, equation 3 of the paper, gradients, validation."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from unsilent.errors import ParameterError
from unsilent.models.band_statistics import BandStatistics, normalise_bands
from unsilent.models.perceptual import Perceptual, PerceptualConfig
from unsilent.models.vggishish import VGGishish, VGGishishConfig

BANDS = BandStatistics(mean=(0.4,) * 32, std=(0.2,) * 32)


def classifier() -> VGGishish:
    torch.manual_seed(0)
    module = VGGishish(VGGishishConfig(bands=BANDS, width=4, hidden=8, labels=3)).eval()
    for name, parameter in module.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter, std=0.1)
    return module


def small() -> Perceptual:
    return Perceptual.from_classifier(classifier())


def mel(seed: int, batch: int = 2, frames: int = 48) -> torch.Tensor:
    return 2 * torch.rand(batch, 32, frames, generator=torch.Generator().manual_seed(seed)) - 1


def test_distance_is_zero_for_equals_positive_and_symmetric():
    distance = small()
    assert torch.equal(distance(mel(0), mel(0)), torch.zeros(2))
    assert (distance(mel(0), mel(1)) > 0.01).all()
    torch.testing.assert_close(distance(mel(0), mel(1)), distance(mel(1), mel(0)))


def test_distance_increases_with_noise():
    distance, noise = small(), mel(1) - mel(0)
    steps = torch.stack([distance(mel(0), mel(0) + share * noise) for share in (0.1, 0.3, 1.0)])
    assert (steps.diff(dim=0) > 0).all()


def test_batch_items_are_independent():
    distance = small()
    torch.testing.assert_close(distance(mel(0), mel(1))[1:], distance(mel(0)[1:], mel(1)[1:]))


def test_distance_equals_equation_3_of_the_paper():
    """`2 - 2 cos` between the classifier's features, averaged over positions, summed over cuts."""
    source = classifier()
    x, y = (normalise_bands((one + 1) / 2, BANDS).unsqueeze(1) for one in (mel(0), mel(1)))
    wanted = torch.zeros(2)
    for index, layer in enumerate(source.features):
        following = source.features[index + 1] if index + 1 < len(source.features) else nn.MaxPool2d(2)
        x, y = layer(x).clone(), layer(y).clone()
        if isinstance(following, nn.MaxPool2d):
            # zero features have length 0, not 1
            active = ((x.norm(dim=1) > 0).float() + (y.norm(dim=1) > 0).float()).flatten(1)
            wanted += (active - 2 * F.cosine_similarity(x, y, dim=1).flatten(1)).mean(dim=1)
    torch.testing.assert_close(small()(mel(0), mel(1)), wanted)


def test_channel_weights_scale_the_distance():
    distance, doubled = small(), small()
    doubled.load_state_dict({name: value * (1 + name.startswith("linear.")) for name, value in distance.state_dict().items()})
    torch.testing.assert_close(doubled(mel(0), mel(1)), 2 * distance(mel(0), mel(1)))


def test_distance_has_a_frozen_copy_of_the_weights():
    source = classifier()
    distance = Perceptual.from_classifier(source)
    before = distance(mel(0), mel(1))
    nn.init.zeros_(source.features[0].weight)
    assert torch.equal(distance(mel(0), mel(1)), before)
    assert torch.equal(distance.train()(mel(0), mel(1)), before)  # no dropout
    assert not [parameter for parameter in distance.parameters() if parameter.requires_grad]
    assert source.features[0].weight.requires_grad


SILENT, LEVEL = torch.full((1, 32, 48), -1.0), torch.full((1, 32, 48), 0.3)


@pytest.mark.parametrize(("one", "two"), [(SILENT, SILENT), (LEVEL, LEVEL), (SILENT, LEVEL), (mel(0, 1), mel(0, 1)), (mel(0, 1), SILENT)])
@pytest.mark.parametrize("features", ["alive", "silent", "vanishing"])
def test_gradients_are_finite(one, two, features):
    """The released formula gives 0 / 0 for features whose squares underflow."""
    distance = small()
    for name, parameter in distance.named_parameters():
        if name.endswith("bias") and features != "alive":
            nn.init.constant_(parameter, -100.0 if features == "silent" else 0.0)
    if features == "vanishing":
        distance.features[0].weight.mul_(1e-25)
    made = two.clone().requires_grad_()
    value = distance(one, made)
    value.sum().backward()
    assert value.isfinite().all()
    assert made.grad.isfinite().all()


def test_zero_features_have_distance_zero_in_float16():
    distance = small()
    for name, parameter in distance.named_parameters():
        if name.endswith("bias"):
            nn.init.constant_(parameter, -100.0)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(distance(SILENT, LEVEL), torch.zeros(1))


def test_gradient_step_reduces_the_distance():
    distance, target = small(), mel(0, 1)
    made = mel(1, 1).requires_grad_()
    before = distance(target, made)
    (slope,) = torch.autograd.grad(before.sum(), made)
    assert distance(target, made - 0.05 * slope / slope.abs().max()).item() < before.item()


def test_wrong_mel_sizes_are_refused():
    with pytest.raises(ParameterError, match="15 mel frames are too few for the distance, which needs 16 or more"):
        small()(mel(0, frames=15), mel(1, frames=15))
    with pytest.raises(ParameterError, match="8 mel bands are too few for the distance; give 16 or more"):
        PerceptualConfig(bands=BandStatistics(mean=(0.5,) * 8, std=(0.1,) * 8))
