"""ResNet-50: the authors' names and numbers, batches, memory layout, folding."""

import copy

import numpy as np
import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.models.backbones.resnet50 import ResNet50
from unsilent.vision.features import find_backbone, preprocess


@pytest.fixture(scope="module")
def network() -> ResNet50:
    torch.manual_seed(0)
    network = ResNet50().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d):  # weights and statistics as after training: pictures differ, folding has something to fold
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
    assert network(preprocess(np.zeros((1, 30, 40, 3), np.uint8), find_backbone("resnet50"))).shape == (1, network.dim)
    assert find_backbone("resnet50").dim == network.dim


def test_pictures_of_a_batch_do_not_mix(network):
    three = network(images(3))
    torch.testing.assert_close(three[1:2], network(images(3)[1:2]), atol=1e-4, rtol=1e-3)
    assert (three[0] - three[1]).abs().max() > 0.1


def test_memory_layout_changes_nothing(network):
    pictures = images(2)
    torch.testing.assert_close(network(pictures.to(memory_format=torch.channels_last)), network(pictures), atol=1e-4, rtol=1e-3)


def test_folding_keeps_the_features(network):
    folded = copy.deepcopy(network)
    folded.fuse()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images(2)), network(images(2)), atol=1e-4, rtol=1e-3)
    folded.fuse()  # a second time changes nothing
    torch.testing.assert_close(folded(images(2)), network(images(2)), atol=1e-4, rtol=1e-3)


def test_folding_while_training_is_refused():
    with pytest.raises(ParameterError, match="ResNet in training mode cannot be fused"):
        ResNet50().fuse()
