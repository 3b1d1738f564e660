"""EfficientNet-lite0: shapes, padding, fused BatchNorm. Its ImageNet weights are tested with their loader."""

import copy

import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.models.backbones.efficientnet_lite import ConvNorm, EfficientNetLite0


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    torch.manual_seed(0)
    network = EfficientNetLite0().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics of the kind that training gives
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return network


def images(batch: int, size: int = 64) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(size)) * 2 - 1


def test_size_and_shapes(network):
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008
    assert network(images(2)).shape == (2, network.dim)
    assert network.classifier(network(images(2))).shape == (2, 1000)


def test_batch_items_are_independent(network):
    torch.testing.assert_close(network(images(3))[1:2], network(images(3)[1:2]), atol=1e-5, rtol=1e-4)


def test_channels_last_gives_the_same_features(network):
    batch = images(2)
    torch.testing.assert_close(network(batch.to(memory_format=torch.channels_last)), network(batch), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [8, 9])
def test_strided_convolutions_have_tensorflow_same_padding(kernel, size):
    """Sizes are rounded up; an odd number of padding pixels has the extra one at the bottom and right."""
    layer = ConvNorm(1, 1, kernel, stride=2, active=False).eval()
    torch.nn.init.ones_(layer.conv.weight)
    result = layer(torch.ones(1, 1, size, size))[0, 0] * (1 + 1e-3) ** 0.5
    reach = [range(2 * out - (kernel - 2 + size % 2) // 2, 2 * out - (kernel - 2 + size % 2) // 2 + kernel) for out in range(-(-size // 2))]
    inside = torch.tensor([sum(0 <= pixel < size for pixel in window) for window in reach], dtype=torch.float32)
    torch.testing.assert_close(result, inside[:, None] * inside)


def test_fuse_keeps_the_features(network):
    folded = copy.deepcopy(network)
    folded.fuse()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images(2)), network(images(2)), atol=1e-4, rtol=1e-3)
    folded.fuse()  # idempotent
    torch.testing.assert_close(folded(images(2)), network(images(2)), atol=1e-4, rtol=1e-3)


def test_fuse_in_training_mode_is_refused():
    with pytest.raises(ParameterError, match="training mode cannot be fused"):
        EfficientNetLite0().fuse()
