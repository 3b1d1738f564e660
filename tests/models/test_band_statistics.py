"""Band statistics: standardisation and validation."""

import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.models.band_statistics import BandStatistics, normalise_bands


def test_normalised_bands_have_mean_zero_and_deviation_one():
    mel01 = torch.rand(4, 3, 500, generator=torch.Generator().manual_seed(0)) * torch.tensor([0.1, 0.5, 1.0])[:, None]
    std, mean = torch.std_mean(mel01, dim=(0, 2))
    normalised = normalise_bands(mel01, BandStatistics(mean=tuple(mean.tolist()), std=tuple(std.tolist())))
    std, mean = torch.std_mean(normalised, dim=(0, 2))
    torch.testing.assert_close(mean, torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(std, torch.ones(3))


def test_unequal_numbers_of_means_and_deviations_are_refused():
    with pytest.raises(ParameterError, match="2 means and 3 standard deviations were given"):
        BandStatistics(mean=(0.1, 0.2), std=(0.1, 0.2, 0.3))


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan")])
def test_deviation_that_is_not_positive_is_refused(std):
    with pytest.raises(
        ParameterError, match=r"band 1 has a standard deviation of .* must be above 0|std.1 is nan, but must be a finite number"
    ):
        BandStatistics(mean=(0.1, 0.2), std=(0.1, std))


def test_mel_with_a_different_number_of_bands_is_refused():
    with pytest.raises(ParameterError, match="a mel of 64 bands was given; the network has statistics of 80 bands"):
        normalise_bands(torch.zeros(1, 64, 16), BandStatistics())
