"""Melception: shapes, consistency of its outputs, dropout, widths, validation."""

import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.models.band_statistics import BandStatistics
from unsilent.models.melception import Melception, MelceptionConfig


@pytest.fixture(scope="module")
def classifier():
    torch.manual_seed(0)
    return Melception(MelceptionConfig(labels=7)).eval().requires_grad_(False)


def mel01(frames: int = 96, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, 80, frames, generator=torch.Generator().manual_seed(frames))


@pytest.mark.parametrize("frames", [79, 160])
def test_any_length_gives_one_logit_per_label(classifier, frames):
    assert classifier(mel01(frames)).shape == (1, 7)
    assert [tuple(logits.shape) for logits in classifier.forward_with_aux(mel01(frames))] == [(1, 7), (1, 7)]
    assert classifier.features(mel01(frames)).shape == (1, 2048)


def test_batch_items_are_independent(classifier):
    mels = mel01(batch=3)
    torch.testing.assert_close(classifier(mels)[1:2], classifier(mels[1:2]))


def test_all_logits_come_from_the_features(classifier):
    features, logits = classifier.features(mel01()), classifier(mel01())
    assert torch.equal(classifier.fc(features), logits)
    assert torch.equal(classifier.forward_with_aux(mel01()).logits, logits)


def test_dropout_affects_logits_but_not_features():
    torch.manual_seed(0)
    classifier = Melception(MelceptionConfig(labels=7)).train()
    mels = mel01(batch=2)
    with torch.no_grad():
        assert torch.equal(classifier.features(mels), classifier.features(mels))
        assert not torch.equal(classifier(mels), classifier(mels))


def test_auxiliary_loss_has_gradients_for_the_lower_blocks_only():
    torch.manual_seed(0)
    classifier = Melception(MelceptionConfig(labels=7)).eval()
    classifier.forward_with_aux(mel01()).auxiliary.sum().backward()
    reached = {name.split(".")[0] for name, parameter in classifier.named_parameters() if parameter.grad is not None}
    everything = {name.split(".")[0] for name, _ in classifier.named_parameters()}
    assert everything - reached == {"Mixed_7a", "Mixed_7b", "Mixed_7c", "fc"}


def test_statistics_standardise_the_input(classifier):
    bands = BandStatistics()
    louder = BandStatistics(mean=tuple(mean + 0.25 for mean in bands.mean), std=bands.std)
    other = Melception(MelceptionConfig(labels=7, bands=louder)).eval()
    other.load_state_dict(classifier.state_dict())
    torch.testing.assert_close(other(mel01() + 0.25), classifier(mel01()), rtol=1e-3, atol=1e-4)


def test_narrow_network_is_small_with_the_same_names(classifier):
    narrow = Melception(MelceptionConfig(labels=7, width=0.25)).eval()
    assert narrow.features(mel01()).shape == (1, narrow.dim) == (1, 512)
    assert classifier.dim == 2048
    sizes = [sum(weights.numel() for weights in network.parameters()) for network in (narrow, classifier)]
    assert sizes[0] == pytest.approx(sizes[1] / 16, rel=0.05)
    assert list(narrow.state_dict()) == list(classifier.state_dict())


@pytest.mark.parametrize(("width", "channels"), [(1.0, 80), (0.5, 40), (0.26, 20), (0.01, 4), (2.0, 160)])
def test_channels_are_multiples_of_four(width, channels):
    assert MelceptionConfig(width=width).channels(80) == channels


def test_wrong_mel_sizes_are_refused(classifier):
    with pytest.raises(ParameterError, match="78 mel frames are too few for Melception, which needs 79 or more"):
        classifier(mel01(78))
    with pytest.raises(ParameterError, match="64 mel bands are too few for Melception; give 79 or more"):
        MelceptionConfig(bands=BandStatistics(mean=(0.5,) * 64, std=(0.1,) * 64))
