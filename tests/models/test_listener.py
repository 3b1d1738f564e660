"""The listener: classes by cosine, any level and length, its use as a classifier of the metrics."""

import numpy as np
import pytest
import torch

from unsilent.checkpoints.store import save_checkpoint
from unsilent.evaluation.classifier import load_classifier
from unsilent.models.listener import SHARPNESS, Listener, ListenerConfig

SMALL = ListenerConfig(block=8, channels=(4, 6, 8, 8), labels=3)


@pytest.fixture
def listener():
    torch.manual_seed(0)
    module = Listener(SMALL).eval().requires_grad_(False)
    # an identity of bands: the network receives the mel's decibels / 10 as log10 of powers
    module.to_bands.copy_(torch.eye(96, 80))
    module.band_bias[80:] = -30
    return module


def mel01(frames=64, seed=1):
    return torch.rand(2, 80, frames, generator=torch.Generator().manual_seed(seed)) * 0.5 + 0.3


def test_the_class_of_a_mean_is_found_whatever_the_level(listener):
    listener.double()  # the embeddings of a random network are alike, so that their differences lose digits
    sounds = torch.cat([mel01(seed=1), mel01(seed=2)])[:3].double()
    sounds[1, 40:] -= 0.25
    sounds[2, :40] -= 0.25
    embedded = listener.embed(sounds)
    listener.centre.copy_(embedded.mean(0))
    listener.fc.weight.copy_(SHARPNESS * torch.nn.functional.normalize(embedded - listener.centre, dim=1))
    listener.fc.bias.zero_()
    logits = listener(sounds)
    assert logits.argmax(1).tolist() == [0, 1, 2]
    torch.testing.assert_close(logits.diagonal(), torch.full((3,), SHARPNESS, dtype=torch.float64))
    torch.testing.assert_close(listener(sounds - 0.05), logits)


@pytest.mark.parametrize("frames", [3, 15, 16, 17, 50])
def test_blocks_cover_every_length(listener, frames):
    embedded = listener.embed(mel01(frames))
    assert embedded.shape == (2, 8)
    assert embedded.isfinite().all()


def test_the_end_of_a_sound_counts(listener):
    one, other = mel01(20), mel01(20)
    other[:, :, 18] = 0.9
    assert not torch.allclose(listener.embed(one), listener.embed(other))


def test_it_is_a_classifier_of_the_metrics(listener, tmp_path):
    save_checkpoint(tmp_path, "listener", "", SMALL, listener.state_dict(), {"classes": ["a", "b", "c"]})
    classifier = load_classifier(str(tmp_path), "cpu")
    features, logits = classifier.classify(classifier.fit(mel01()[0]))
    assert features.shape == (classifier.feature_dim,) == (8,)
    np.testing.assert_allclose(np.linalg.norm(features), 1, rtol=1e-5)
    assert logits.shape == (3,)
