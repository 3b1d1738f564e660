"""VGGish-ish: lengths, batches, band statistics, configuration, validation."""

import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.models.band_statistics import BandStatistics
from unsilent.models.vggishish import VGGishish, VGGishishConfig


def small(**fields) -> VGGishish:
    torch.manual_seed(0)
    return VGGishish(VGGishishConfig(**{"width": 4, "hidden": 16, "labels": 7} | fields)).eval()


def mel01(frames: int = 64, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 80, frames, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("frames", [16, 100, 848])
def test_any_length_gives_one_logit_per_label(frames):
    assert small()(mel01(frames, batch=2)).shape == (2, 7)


def test_batch_items_are_independent():
    classifier, mels = small(), mel01(batch=3)
    torch.testing.assert_close(classifier(mels)[1:2], classifier(mels[1:2]))


def test_statistics_standardise_the_input():
    """An offset of the mels and of the means cancels."""
    bands = BandStatistics()
    louder = BandStatistics(mean=tuple(mean + 0.25 for mean in bands.mean), std=bands.std)
    torch.testing.assert_close(small(bands=louder)(mel01() + 0.25), small()(mel01()), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(small(bands=louder)(mel01()), small()(mel01()), atol=1e-2)


def test_configuration_and_weights_restore_the_network():
    """Built on the meta device and then filled, as checkpoints are loaded."""
    bands = BandStatistics(mean=(0.3,) * 16, std=(0.1,) * 16)
    classifier = small(bands=bands)
    with torch.device("meta"):
        blank = VGGishish(VGGishishConfig(**classifier.config.model_dump(mode="json")))
    blank.load_state_dict(classifier.state_dict(), assign=True)
    mel = mel01()[:, :16]
    assert torch.equal(blank(mel), classifier(mel))


def test_invalid_sizes_are_refused():
    with pytest.raises(ParameterError, match="15 mel frames are too few for the classifier, which needs 16 or more"):
        small()(mel01(15))
    with pytest.raises(ParameterError, match="8 mel bands are too few for 4 poolings; give 16 or more"):
        VGGishishConfig(bands=BandStatistics(mean=(0.5,) * 8, std=(0.1,) * 8))
    with pytest.raises(ParameterError, match="a grid of 0 x 10 has no positions"):
        VGGishishConfig(grid=(0, 10))
