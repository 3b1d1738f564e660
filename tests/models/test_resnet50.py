"""ResNet-50: shapes, batches, memory layout, fused BatchNorm."""

import copy

import numpy as np
import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.models.backbones.resnet50 import ResNet50
from unsilent.vision.features import extract, find_backbone


@pytest.fixture(scope="module")
def network() -> ResNet50:
    torch.manual_seed(0)
    network = ResNet50().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):  # weights and statistics of the kind that training gives
            torch.nn.init.normal_(module.weight, 0, module.weight[0].numel() ** -0.5)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return network


def images(batch: int, size: int = 64) -> torch.Tensor:
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(size))


def test_size_and_shapes(network):
    assert sum(parameter.numel() for parameter in network.parameters()) == 23_508_032
    assert extract(np.zeros((1, 30, 40, 3), np.uint8), network, find_backbone("resnet50")).shape == (1, network.dim)
    assert find_backbone("resnet50").dim == network.dim


def test_batch_items_are_independent(network):
    three = network(images(3))
    torch.testing.assert_close(three[1:2], network(images(3)[1:2]), atol=1e-4, rtol=1e-3)
    assert (three[0] - three[1]).abs().max() > 0.1


def test_channels_last_gives_the_same_features(network):
    batch = images(2)
    torch.testing.assert_close(network(batch.to(memory_format=torch.channels_last)), network(batch), atol=1e-4, rtol=1e-3)


def test_fuse_keeps_the_features(network):
    folded = copy.deepcopy(network)
    folded.fuse()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images(2)), network(images(2)), atol=1e-4, rtol=1e-3)
    folded.fuse()  # idempotent
    torch.testing.assert_close(folded(images(2)), network(images(2)), atol=1e-4, rtol=1e-3)


def test_fuse_in_training_mode_is_refused():
    with pytest.raises(ParameterError, match="ResNet in training mode cannot be fused"):
        ResNet50().fuse()
