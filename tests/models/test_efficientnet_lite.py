"""The small picture network: shapes, padding, folding. Its real weights are tested with their loader."""

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
        if isinstance(module, torch.nn.BatchNorm2d):  # statistics as after training, so that folding has something to fold
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return network


def images(batch: int, size: int = 64) -> torch.Tensor:
    return torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(size)) * 2 - 1


def test_size_and_shapes(network):
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008
    assert network(images(2)).shape == (2, network.dim)
    assert network.logits(images(2)).shape == (2, 1000)


def test_pictures_of_a_batch_do_not_mix(network):
    torch.testing.assert_close(network(images(3))[1:2], network(images(3)[1:2]), atol=1e-5, rtol=1e-4)


def test_memory_layout_changes_nothing(network):
    pictures = images(2)
    torch.testing.assert_close(network(pictures.to(memory_format=torch.channels_last)), network(pictures), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [8, 9])
def test_strides_pad_the_far_side_more(kernel, size):
    """TensorFlow's rule: rounded up in size, and of an odd number of missing pixels the last goes to the far side."""
    layer = ConvNorm(1, 1, kernel, stride=2, active=False).eval()
    torch.nn.init.ones_(layer.conv.weight)
    seen = layer(torch.ones(1, 1, size, size))[0, 0] * (1 + 1e-3) ** 0.5
    reach = [range(2 * out - (kernel - 2 + size % 2) // 2, 2 * out - (kernel - 2 + size % 2) // 2 + kernel) for out in range(-(-size // 2))]
    inside = torch.tensor([sum(0 <= pixel < size for pixel in window) for window in reach], dtype=torch.float32)
    torch.testing.assert_close(seen, inside[:, None] * inside)


def test_folding_keeps_the_features(network):
    folded = copy.deepcopy(network)
    folded.fuse()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images(2)), network(images(2)), atol=1e-4, rtol=1e-3)
    folded.fuse()  # a second time changes nothing
    torch.testing.assert_close(folded(images(2)), network(images(2)), atol=1e-4, rtol=1e-3)


def test_folding_while_training_is_refused():
    with pytest.raises(ParameterError, match="training mode cannot be fused"):
        EfficientNetLite0().fuse()
