"""Band statistics: whose they are, what normalising does, and what is refused."""

import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.models.band_statistics import BandStatistics, normalise_bands


def test_a_band_in_its_own_units_has_mean_zero_and_deviation_one():
    mel01 = torch.rand(4, 3, 500, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 0.5, 1.0])[:, None]
    std, mean = torch.std_mean(mel01, dim=(0, 2))
    normalised = normalise_bands(mel01, BandStatistics(mean=tuple(mean.tolist()), std=tuple(std.tolist())))
    std, mean = torch.std_mean(normalised, dim=(0, 2))
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.ones(3))


def test_each_band_needs_one_of_each():
    with pytest.raises(ParameterError, match="2 means and 3 deviations given"):
        BandStatistics(mean=(0.1, 0.2), std=(0.1, 0.2, 0.3))


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_a_band_that_never_moves_is_refused(std):
    with pytest.raises(ParameterError, match=r"band 1 has the deviation .* must be above 0"):
        BandStatistics(mean=(0.1, 0.2), std=(0.1, std))


def test_other_bands_are_refused():
    with pytest.raises(ParameterError, match="64 mel bands given, the network's statistics are of 80"):
        normalise_bands(torch.zeros(1, 64, 16), BandStatistics())
