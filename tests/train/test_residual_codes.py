"""The fit of residual codes: the metric of a listener decides which features are coded precisely."""

import pytest
import torch

from unsilent.clip import Clip
from unsilent.models.configs import ResidualCodebookConfig
from unsilent.models.listener import Listener, ListenerConfig
from unsilent.models.residual_codebook import ResidualCodebook, column_features
from unsilent.signal.mel import from_mel01
from unsilent.train.residual_codes import columns_of, fit, sensitivity

CLIP = Clip(mels=80, frames=64, levels=2)
CONFIG = ResidualCodebookConfig(clip=CLIP, levels=2, n_codes=32, dim=24, groups=5, textures=10, beam=2)
HEARD = slice(40, 48)  # bands that the listener hears


@pytest.fixture
def mels():
    return [from_mel01(torch.rand(6, 80, 64, generator=torch.Generator().manual_seed(seed)) * 0.4 + 0.3) for seed in range(8)]


@pytest.fixture
def listener():
    torch.manual_seed(0)
    module = Listener(ListenerConfig(block=16, channels=(4, 4, 4, 8), labels=2)).eval().requires_grad_(False)
    module.to_bands[HEARD, HEARD] = torch.eye(8)
    module.band_bias.fill_(-30).__setitem__(HEARD, 0)
    return module


def fitted(columns, heard=None):
    torch.manual_seed(1)
    codebook = ResidualCodebook(CONFIG).requires_grad_(False)
    left = list(fit(codebook, columns, heard))
    assert len(left) == 2
    assert 0 < left[1] < left[0] < 1
    return codebook


def test_a_listener_is_sensitive_to_the_bands_that_it_hears(mels, listener):
    codebook = fitted(torch.cat([columns_of(mel, CONFIG) for mel in mels]))
    torch.manual_seed(2)
    power = sensitivity(listener, codebook, mels).diagonal()[:320].reshape(80, 4).sum(1)
    assert power[HEARD].min() > 100 * (power[:40].max() + power[48:].max())


def test_what_a_listener_hears_is_coded_more_precisely(mels, listener):
    columns = torch.cat([columns_of(mel, CONFIG) for mel in mels])
    plain = fitted(columns)
    torch.manual_seed(2)
    tuned = fitted(columns, sensitivity(listener, plain, mels))
    errors = []
    for codebook in (plain, tuned):
        features = torch.cat([column_features(mel, CONFIG) for mel in mels])
        latents = codebook.quantize.lookup(codebook.encode(torch.cat(mels)))
        power = (codebook.decoder.linear(latents.transpose(1, 2)) - features)[:, :, :320].unflatten(2, (80, 4)).square().mean((0, 1, 3))
        errors.append((power[HEARD].mean(), power.mean()))
    assert errors[1][0] < 0.8 * errors[0][0]
    assert errors[1][1] > errors[0][1]


def test_encoder_and_decoder_are_inverse_in_any_metric(mels, listener):
    columns = torch.cat([columns_of(mel, CONFIG) for mel in mels])
    config = CONFIG.model_copy(update={"dim": CONFIG.n_features})
    codebook = ResidualCodebook(config).requires_grad_(False)
    torch.manual_seed(2)
    list(fit(codebook, columns, sensitivity(listener, fitted(columns), mels)))
    torch.testing.assert_close(codebook.decoder.linear(codebook.encoder.linear(columns)), columns, atol=1e-4, rtol=1e-4)
