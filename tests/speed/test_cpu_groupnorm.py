"""What is in front of a convolution of whole numbers, against the same in double precision."""

import pytest
import torch
import torch.nn.functional as F

from unsilent.errors import ParameterError
from unsilent.speed import cpu_groupnorm

pytestmark = pytest.mark.skipif(not cpu_groupnorm.is_available(), reason="installed without a C compiler, or a processor without AVX-512")

SWISH_LEAST = -0.2784645
MOST = 0.5 + 255 * (6e-5 + 2**-14)  # steps


def picture(channels, height, width, dtype=torch.float32, mean=0.0):
    x = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(channels)) + mean
    weight, bias = torch.randn(2, channels, generator=torch.Generator().manual_seed(1))
    return x.to(dtype).contiguous(memory_format=torch.channels_last), weight, bias


def exactly(x, groups, weight, bias):
    return F.silu(F.group_norm(x.double(), groups, weight.double(), bias.double(), 1e-6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "groups", "size"), [(16, 4, (1, 1)), (48, 12, (7, 9)), (128, 32, (80, 300)), (512, 32, (5, 53))])
def test_it_is_the_nearest_whole_number(dtype, channels, groups, size):
    """Half a step away at most, and what the exponential (6e-5) and the reciprocal (2 ** -14) leave of 255 steps."""
    x, weight, bias = picture(channels, *size, dtype)
    values, scale, zero_point = cpu_groupnorm.norm_swish_quantise(x, groups, weight, bias, 1e-6)
    expected = exactly(x, groups, weight, bias)
    assert (scale * (values.double() - zero_point) - expected).abs().max() < MOST * scale
    assert scale == pytest.approx((max(0, float(expected.max())) - SWISH_LEAST) / 255, rel=1e-5)


def test_a_large_mean_costs_no_digits():
    """The variance is a small difference of large sums, unless they are of differences themselves."""
    x, weight, bias = picture(32, 40, 100, mean=1000.0)
    values, scale, zero_point = cpu_groupnorm.norm_swish_quantise(x, 8, weight, bias, 1e-6)
    assert (scale * (values.double() - zero_point) - exactly(x, 8, weight, bias)).abs().max() < MOST * scale


@pytest.mark.parametrize(("shift", "largest"), [(-30.0, 0.0), (30.0, 33.0)])
def test_all_below_or_all_above_zero_is_no_overflow(shift, largest):
    x, weight, _ = picture(16, 20, 20)
    weight.fill_(1)
    values, scale, zero_point = cpu_groupnorm.norm_swish_quantise(x, 4, weight, torch.full((16,), shift), 1e-6)
    swished = scale * (values.double() - zero_point)
    assert (swished - exactly(x, 4, weight, torch.full((16,), shift))).abs().max() < MOST * scale
    assert swished.max() == pytest.approx(largest, abs=1.5)


def test_threads_change_nothing():
    if not cpu_groupnorm.library().team:
        pytest.skip("torch's OpenMP is not at hand here, so one thread rounds")
    x, weight, bias = picture(128, 80, 300)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        found.append(cpu_groupnorm.norm_swish_quantise(x, 32, weight, bias, 1e-6))
    torch.set_num_threads(before)
    assert all(torch.equal(one.values, found[0].values) and one[1:] == found[0][1:] for one in found)


def test_any_order_in_memory_will_do():
    x, weight, bias = picture(16, 8, 9)
    expected = cpu_groupnorm.norm_swish_quantise(x, 4, weight, bias, 1e-6)
    assert torch.equal(cpu_groupnorm.norm_swish_quantise(x.contiguous(), 4, weight, bias, 1e-6).values, expected.values)


def test_what_cannot_be_rounded_is_said():
    x, weight, bias = picture(16, 8, 9)
    with pytest.raises(ParameterError, match=r"an image of torch\.float64 given; float32 and bfloat16 can be quantised\."):
        cpu_groupnorm.norm_swish_quantise(x.double(), 4, weight, bias, 1e-6)
    with pytest.raises(ParameterError, match=r"2 images given; one is quantised at a time\."):
        cpu_groupnorm.norm_swish_quantise(x.repeat(2, 1, 1, 1), 4, weight, bias, 1e-6)
