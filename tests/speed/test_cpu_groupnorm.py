"""GroupNorm, swish and quantisation in C against the same in double precision."""

import pytest
import torch
import torch.nn.functional as F

from unsilent.errors import ParameterError
from unsilent.speed import cpu_groupnorm

pytestmark = pytest.mark.skipif(not cpu_groupnorm.is_available(), reason="installed without a C compiler, or a processor without AVX-512")

SWISH_MINIMUM = -0.2784645
TOLERANCE = 0.5 + 255 * (6e-5 + 2**-14)  # levels


def image(channels, height, width, dtype=torch.float32, mean=0.0):
    x = torch.randn(1, channels, height, width, generator=torch.Generator().manual_seed(channels)) + mean
    weight, bias = torch.randn(2, channels, generator=torch.Generator().manual_seed(1))
    return x.to(dtype).contiguous(memory_format=torch.channels_last), weight, bias


def exact(x, groups, weight, bias):
    return F.silu(F.group_norm(x.double(), groups, weight.double(), bias.double(), 1e-6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("channels", "groups", "size"), [(16, 4, (1, 1)), (48, 12, (7, 9)), (128, 32, (80, 300)), (512, 32, (5, 53))])
def test_result_is_the_nearest_level(dtype, channels, groups, size):
    """To half a level, and the errors of the exponential (6e-5) and the reciprocal (2 ** -14) over 255 levels."""
    x, weight, bias = image(channels, *size, dtype)
    values, scale, zero_point = cpu_groupnorm.norm_swish_quantise(x, groups, weight, bias, 1e-6)
    expected = exact(x, groups, weight, bias)
    assert (scale * (values.double() - zero_point) - expected).abs().max() < TOLERANCE * scale
    assert scale == pytest.approx((max(0, float(expected.max())) - SWISH_MINIMUM) / 255, rel=1e-5)


def test_large_mean_costs_no_precision():
    """Because sums are taken of differences from the first place; otherwise the variance is a small difference of large sums."""
    x, weight, bias = image(32, 40, 100, mean=1000.0)
    values, scale, zero_point = cpu_groupnorm.norm_swish_quantise(x, 8, weight, bias, 1e-6)
    assert (scale * (values.double() - zero_point) - exact(x, 8, weight, bias)).abs().max() < TOLERANCE * scale


@pytest.mark.parametrize(("shift", "largest"), [(-30.0, 0.0), (30.0, 33.0)])
def test_all_negative_and_all_positive_images_do_not_overflow(shift, largest):
    x, weight, _ = image(16, 20, 20)
    weight.fill_(1)
    values, scale, zero_point = cpu_groupnorm.norm_swish_quantise(x, 4, weight, torch.full((16,), shift), 1e-6)
    activated = scale * (values.double() - zero_point)
    assert (activated - exact(x, 4, weight, torch.full((16,), shift))).abs().max() < TOLERANCE * scale
    assert activated.max() == pytest.approx(largest, abs=1.5)


def test_results_do_not_depend_on_threads():
    if not cpu_groupnorm.library().team:
        pytest.skip("torch's OpenMP is not libgomp here, so one thread computes")
    x, weight, bias = image(128, 80, 300)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        found.append(cpu_groupnorm.norm_swish_quantise(x, 32, weight, bias, 1e-6))
    torch.set_num_threads(before)
    assert all(torch.equal(one.values, found[0].values) and one[1:] == found[0][1:] for one in found)


def test_any_memory_format_is_accepted():
    x, weight, bias = image(16, 8, 9)
    expected = cpu_groupnorm.norm_swish_quantise(x, 4, weight, bias, 1e-6)
    assert torch.equal(cpu_groupnorm.norm_swish_quantise(x.contiguous(), 4, weight, bias, 1e-6).values, expected.values)


def test_batches_and_other_dtypes_are_refused():
    x, weight, bias = image(16, 8, 9)
    with pytest.raises(ParameterError, match=r"an image of torch\.float64 was given; float32 and bfloat16 can be quantised\."):
        cpu_groupnorm.norm_swish_quantise(x.double(), 4, weight, bias, 1e-6)
    with pytest.raises(ParameterError, match=r"2 images were given; quantise one at a time\."):
        cpu_groupnorm.norm_swish_quantise(x.repeat(2, 1, 1, 1), 4, weight, bias, 1e-6)
