"""The iSTFT-head vocoder: lengths, range, receptive field, consistency refinement, and that it learns."""

import pytest
import torch

from unsilent.models.configs import VocosConfig
from unsilent.models.vocos import Vocos
from unsilent.signal.mel import log_mel01
from unsilent.train.losses import mel_loss, stft_loss

CONFIG = VocosConfig(width=24, hidden=48, n_blocks=2, rounds=2)


def build() -> Vocos:
    torch.manual_seed(0)
    return Vocos(CONFIG)


@pytest.mark.parametrize(("frames", "iterations"), [(1, 0), (1, None), (2, None), (3, None), (40, None)])
def test_waveform_has_one_hop_of_samples_per_frame(frames, iterations):
    assert build()(torch.rand(2, 80, frames), iterations).shape == (2, frames * 256)


def test_waveform_is_bounded_for_extreme_weights():
    vocoder = build()
    vocoder.head.bias.data.fill_(50.0)
    waveform = vocoder(torch.rand(1, 80, 8))
    assert waveform.isfinite().all()
    assert waveform.abs().max() <= 1


def test_context_frames_is_the_receptive_field():
    vocoder = build().eval()
    mel01 = torch.rand(1, 80, 80, requires_grad=True)
    frame = 40
    vocoder(mel01)[0, frame * 256 : (frame + 1) * 256].square().sum().backward()
    reached = torch.nonzero(mel01.grad.abs().sum((0, 1))).flatten()
    assert reached.min() >= frame - vocoder.context_frames
    assert reached.max() <= frame + vocoder.context_frames
    assert reached.max() > frame + vocoder.context_frames - 4  # not needlessly wide


def test_batch_items_are_independent():
    vocoder = build().eval()
    mel01 = 0.5 * torch.rand(3, 80, 10)  # up to -30 dB, so that nothing is clipped at full scale
    torch.testing.assert_close(vocoder(mel01)[1:2], vocoder(mel01[1:2]), atol=1e-6, rtol=0)


def test_forward_does_the_configured_iterations_by_default_in_either_mode():
    vocoder, mel01 = build(), torch.rand(1, 80, 10)
    waveform = vocoder.train()(mel01)
    assert torch.equal(vocoder.eval()(mel01), waveform)
    assert torch.equal(vocoder(mel01, CONFIG.rounds), waveform)
    assert not torch.equal(vocoder(mel01, 0), waveform)


def test_iterations_reduce_the_mel_loss_without_training():
    target = torch.randn(1, 40 * 256) * torch.linspace(0.01, 0.3, 40 * 256)
    mel01, vocoder = log_mel01(target), build()
    losses = [mel_loss(vocoder(mel01, iterations), mel01, CONFIG.clip).item() for iterations in (0, 4, 16)]
    assert losses[1] < 0.7 * losses[0]
    assert losses[2] < 0.6 * losses[1]


def test_thirty_training_steps_approach_a_tone():
    vocoder = build()
    target = 0.3 * torch.sin(2 * torch.pi * 440 / 22050 * torch.arange(16 * 256))[None]
    mel01 = log_mel01(target)
    optimizer = torch.optim.Adam(vocoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        waveform = vocoder(mel01, iterations=0)
        loss = sum(stft_loss(waveform, target).values()) + 10 * mel_loss(waveform, mel01, vocoder.config.clip)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
