"""The iSTFT-head vocoder: lengths, reach, and that it can learn."""

import torch

from unsilent.models.vocos import Vocos, VocosConfig
from unsilent.signal.mel import log_mel01
from unsilent.train.losses import mel_loss, stft_loss

CONFIG = VocosConfig(width=24, hidden=48, n_blocks=2, rounds=2)


def test_one_hop_of_samples_per_frame():
    torch.manual_seed(0)
    for frames in (1, 5, 40):
        assert Vocos(CONFIG)(torch.rand(2, 80, frames)).shape == (2, frames * 256)


def test_output_is_bounded_even_for_absurd_weights():
    torch.manual_seed(0)
    vocoder = Vocos(CONFIG)
    vocoder.head.bias.data.fill_(50.0)
    waveform = vocoder(torch.rand(1, 80, 8))
    assert waveform.isfinite().all()
    assert waveform.abs().max() <= 1


def test_a_sample_depends_on_its_context_and_no_further():
    torch.manual_seed(0)
    vocoder = Vocos(CONFIG).eval()
    mel01 = torch.rand(1, 80, 80, requires_grad=True)
    frame = 40
    vocoder(mel01)[0, frame * 256 : (frame + 1) * 256].square().sum().backward()
    reached = torch.nonzero(mel01.grad.abs().sum((0, 1))).flatten()
    assert reached.min() >= frame - vocoder.context_frames
    assert reached.max() <= frame + vocoder.context_frames
    assert reached.max() > frame + vocoder.context_frames - 4  # the promise is not needlessly wide


def test_rows_of_a_batch_do_not_touch():
    torch.manual_seed(0)
    vocoder = Vocos(CONFIG).eval()
    mel01 = 0.5 * torch.rand(3, 80, 10)  # up to -30 dB, so that nothing is cut at full scale
    torch.testing.assert_close(vocoder(mel01)[1:2], vocoder(mel01[1:2]), atol=1e-6, rtol=0)


def test_rounds_bring_the_sound_to_its_mel():
    """Without any training: a vocoder that knows nothing still keeps the bands it was asked for."""
    torch.manual_seed(0)
    target = torch.randn(1, 40 * 256) * torch.linspace(0.01, 0.3, 40 * 256)
    mel01 = log_mel01(target)
    misses = []
    for rounds in (0, 4, 16):
        vocoder = Vocos(CONFIG.model_copy(update={"rounds": rounds})).eval()
        vocoder.load_state_dict(misses[0][1] if misses else vocoder.state_dict())
        misses.append((mel_loss(vocoder(mel01), mel01, CONFIG.clip).item(), vocoder.state_dict()))
    assert misses[1][0] < 0.7 * misses[0][0]
    assert misses[2][0] < 0.6 * misses[1][0]


def test_a_few_steps_bring_it_nearer_to_a_tone():
    torch.manual_seed(0)
    vocoder = Vocos(CONFIG)
    target = 0.3 * torch.sin(2 * torch.pi * 440 / 22050 * torch.arange(16 * 256))[None]
    mel01 = log_mel01(target)
    optimizer = torch.optim.Adam(vocoder.parameters(), lr=3e-3)
    distances = []
    for _ in range(30):
        waveform = vocoder(mel01)
        loss = sum(stft_loss(waveform, target).values()) + 10 * mel_loss(waveform, mel01, vocoder.config.clip)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        distances.append(loss.item())
    assert distances[-1] < 0.6 * distances[0]
