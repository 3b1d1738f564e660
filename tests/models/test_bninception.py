"""BN-Inception and the two-stream network: shapes, pooling at borders, streams, fused BatchNorm."""

import copy

import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.models.backbones.bninception import BNInception, TwoStream, flow_weights
from unsilent.vision.features import find_backbone


def trained(network: torch.nn.Module) -> torch.nn.Module:
    """With weights and BatchNorm statistics of the kind that training gives."""
    for module in network.eval().modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return network


@pytest.fixture(scope="module")
def network() -> BNInception:
    torch.manual_seed(0)
    return trained(BNInception())


@pytest.fixture(scope="module")
def both() -> TwoStream:
    torch.manual_seed(1)
    return trained(TwoStream())


def images(batch: int, channels: int = 3, size: int = 64) -> torch.Tensor:
    return torch.randn(batch, channels, size, size, generator=torch.Generator().manual_seed(size))


def test_size_and_shapes(network, both):
    assert sum(parameter.numel() for parameter in network.parameters()) == 10_270_240
    assert network(images(2)).shape == (2, network.dim)
    assert both(images(2, 5)).shape == (2, both.dim)
    assert find_backbone("bninception").dim == both.dim


@pytest.mark.parametrize("size", [64, 224])
def test_branches_have_equal_sizes(network, size):
    """Pooling must round sizes up: rounded down, branches of these sizes could not be concatenated."""
    assert network(images(1, size=size)).isfinite().all()


@pytest.mark.parametrize(("block", "inputs", "corner"), [("3a", 192, 4 / 9), ("5b", 1024, 1.0)])
def test_pooling_inside_blocks(block, inputs, corner):
    """Average pooling counts its zero padding; the last block has max pooling."""
    network = BNInception().eval()
    projection = network.get_submodule(f"inception_{block}_pool_proj")
    torch.nn.init.constant_(projection.weight, 1 / inputs)
    torch.nn.init.zeros_(projection.bias)
    pooled = network.block(torch.ones(1, inputs, 5, 5), block)[0, -projection.out_channels :].detach() * (1 + 1e-5) ** 0.5
    torch.testing.assert_close(pooled[:, 0, 0], torch.full_like(pooled[:, 0, 0], corner))
    torch.testing.assert_close(pooled[:, 2, 2], torch.ones_like(pooled[:, 0, 0]))


def test_batch_items_are_independent(both):
    three = both(images(3, 5))
    torch.testing.assert_close(three[1:2], both(images(3, 5)[1:2]), atol=1e-4, rtol=1e-3)
    assert (three[0] - three[1]).abs().max() > 0.1


def test_channels_last_gives_the_same_features(both):
    batch = images(2, 5)
    torch.testing.assert_close(both(batch.to(memory_format=torch.channels_last)), both(batch), atol=1e-4, rtol=1e-3)


def test_image_features_precede_flow_features(both):
    """The first half of a feature depends on the three colour channels only, the second on the two of flow only."""
    whole = both(images(1, 5))
    for channels, same, other in ((slice(0, 3), slice(1024, None), slice(0, 1024)), (slice(3, 5), slice(0, 1024), slice(1024, None))):
        changed = images(1, 5)
        changed[:, channels] *= -1
        found = both(changed)
        torch.testing.assert_close(found[:, same], whole[:, same])
        assert (found[:, other] - whole[:, other]).abs().max() > 0.01


def test_flow_weights_average_over_colours(network):
    """Flow (a, b) gives the features of a grey image of (a + b) / 3."""
    flow = BNInception(2).eval()
    flow.load_state_dict(flow_weights(network.state_dict()))
    motion = images(2, 2)
    grey = (motion.sum(dim=1, keepdim=True) / 3).expand(-1, 3, -1, -1)
    torch.testing.assert_close(flow(motion), network(grey), atol=1e-4, rtol=1e-3)


def test_fuse_keeps_the_features(both):
    folded = copy.deepcopy(both)
    folded.fuse()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    torch.testing.assert_close(folded(images(2, 5)), both(images(2, 5)), atol=1e-4, rtol=1e-3)
    folded.fuse()  # idempotent
    torch.testing.assert_close(folded(images(2, 5)), both(images(2, 5)), atol=1e-4, rtol=1e-3)


def test_fuse_in_training_mode_is_refused():
    with pytest.raises(ParameterError, match="BN-Inception in training mode cannot be fused"):
        TwoStream().fuse()
