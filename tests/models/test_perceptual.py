"""The perceptual distance: that it is one, that it can train, where it comes from, and the authors' numbers."""

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


def test_it_is_a_distance():
    distance = small()
    assert torch.equal(distance(mel(0), mel(0)), torch.zeros(2))
    assert (distance(mel(0), mel(1)) > 0.01).all()
    torch.testing.assert_close(distance(mel(0), mel(1)), distance(mel(1), mel(0)))


def test_more_different_is_further():
    distance, noise = small(), mel(1) - mel(0)
    steps = torch.stack([distance(mel(0), mel(0) + share * noise) for share in (0.1, 0.3, 1.0)])
    assert (steps.diff(dim=0) > 0).all()


def test_mels_of_a_batch_do_not_mix():
    distance = small()
    torch.testing.assert_close(distance(mel(0), mel(1))[1:], distance(mel(0)[1:], mel(1)[1:]))


def test_without_trained_weights_it_is_how_far_apart_the_directions_of_features_are():
    """Said anew in the words of the paper's equation 3: `2 - 2 cos` between the classifier's features, averaged, summed over cuts."""
    source = classifier()
    x, y = (normalise_bands((one + 1) / 2, BANDS).unsqueeze(1) for one in (mel(0), mel(1)))
    wanted = torch.zeros(2)
    for index, layer in enumerate(source.features):
        following = source.features[index + 1] if index + 1 < len(source.features) else nn.MaxPool2d(2)
        x, y = layer(x).clone(), layer(y).clone()
        if isinstance(following, nn.MaxPool2d):
            active = ((x.norm(dim=1) > 0).float() + (y.norm(dim=1) > 0).float()).flatten(1)  # a silent direction has length 0, not 1
            wanted += (active - 2 * F.cosine_similarity(x, y, dim=1).flatten(1)).mean(dim=1)
    torch.testing.assert_close(small()(mel(0), mel(1)), wanted)


def test_trained_weights_weigh_channels():
    widths = [4, 8, 16, 32, 32]
    distance = small()
    doubled = Perceptual.from_classifier(classifier(), [torch.full((width,), 2.0) for width in widths])
    torch.testing.assert_close(doubled(mel(0), mel(1)), 2 * distance(mel(0), mel(1)))
    with pytest.raises(ParameterError, match=r"linear weights of \[4, 8\] channels given, the cuts have \[4, 8, 16, 32, 32\]"):
        Perceptual.from_classifier(classifier(), [torch.ones(4), torch.ones(8)])


def test_it_keeps_its_own_copy_and_does_not_learn():
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
    """With the released formula features so weak that their squares round to zero have the gradient 0 / 0."""
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


def test_silence_is_at_no_distance_in_half_precision():
    distance = small()
    for name, parameter in distance.named_parameters():
        if name.endswith("bias"):
            nn.init.constant_(parameter, -100.0)
    with torch.autocast("cpu", dtype=torch.float16):
        assert torch.equal(distance(SILENT, LEVEL), torch.zeros(1))


def test_gradients_lead_nearer():
    distance, target = small(), mel(0, 1)
    made = mel(1, 1).requires_grad_()
    before = distance(target, made)
    (slope,) = torch.autograd.grad(before.sum(), made)
    assert distance(target, made - 0.05 * slope / slope.abs().max()).item() < before.item()


def test_what_does_not_fit_is_refused():
    with pytest.raises(ParameterError, match="15 mel frames are too few for the distance, which needs 16 or more"):
        small()(mel(0, frames=15), mel(1, frames=15))
    with pytest.raises(ParameterError, match="8 mel bands are too few for the distance, give 16 or more"):
        PerceptualConfig(bands=BandStatistics(mean=(0.5,) * 8, std=(0.1,) * 8))
