"""MelGAN: lengths, receptive field, weight norms, validation."""

import pytest
import torch

from unsilent.errors import ParameterError
from unsilent.models.configs import MelGANConfig
from unsilent.models.melgan import MelGAN, released_names


def small(**fields) -> MelGAN:
    torch.manual_seed(0)
    return MelGAN(MelGANConfig(**{"mels": 5, "width": 4, "ratios": (4, 2)} | fields)).eval()


def mel01(frames: int, mels: int = 5, batch: int = 1) -> torch.Tensor:
    return torch.rand(batch, mels, frames, generator=torch.Generator().manual_seed(frames))


def test_default_has_the_papers_size():
    assert sum(parameter.numel() for parameter in MelGAN().parameters()) == 4_266_050
    assert MelGAN().hop == 256


@pytest.mark.parametrize("ratios", [(8, 8, 2, 2), (4, 2), (3,), (5, 2)])
def test_waveform_has_one_hop_of_samples_per_frame(ratios):
    vocoder = small(ratios=ratios)
    waveform = vocoder(mel01(13))
    assert waveform.shape == (1, 13 * vocoder.hop)
    assert waveform.abs().max() < 1


@pytest.mark.parametrize(("ratios", "residual_blocks"), [((8, 8, 2, 2), 3), ((4, 2), 3), ((4, 2), 1), ((3,), 2)])
def test_context_frames_is_the_receptive_field(ratios, residual_blocks):
    """By gradients: the furthest frame that affects the samples of the middle frame."""
    vocoder = small(ratios=ratios, residual_blocks=residual_blocks).double()
    middle = 3 * vocoder.context_frames
    mel = mel01(2 * middle + 1).double().requires_grad_()
    vocoder(mel)[0, middle * vocoder.hop : (middle + 1) * vocoder.hop].abs().sum().backward()
    reached = mel.grad[0].abs().sum(0).nonzero().flatten() - middle
    assert max(-reached.min(), reached.max()) == vocoder.context_frames


def test_chunks_with_context_equal_one_pass():
    vocoder = small().double()
    mel, reach = mel01(60).double(), vocoder.context_frames
    chunk = vocoder(mel[..., 20 - reach : 40 + reach])[:, reach * vocoder.hop : -reach * vocoder.hop]
    torch.testing.assert_close(chunk, vocoder(mel)[:, 20 * vocoder.hop : 40 * vocoder.hop])


def test_batch_items_are_independent():
    vocoder, mel = small(), mel01(12, batch=3)
    torch.testing.assert_close(vocoder(mel)[1:2], vocoder(mel[1:2]))


def test_remove_weight_norm_keeps_the_waveform():
    vocoder, mel = small(), mel01(12)
    before = vocoder(mel)
    vocoder.remove_weight_norm()
    torch.testing.assert_close(vocoder(mel), before)
    assert not [name for name in vocoder.state_dict() if "parametrizations" in name]
    vocoder.remove_weight_norm()  # a second time changes nothing


@pytest.mark.parametrize(("frames", "mels", "message"), [(3, 5, "3 mel frames .* 4 or more"), (9, 80, "a mel of 80 bands .* takes 5")])
def test_wrong_mel_sizes_are_refused(frames, mels, message):
    with pytest.raises(ParameterError, match=message):
        small()(mel01(frames, mels))


def test_smallest_number_of_frames_is_accepted():
    assert small()(mel01(4)).shape == (1, 32)
    assert small(residual_blocks=4)(mel01(7)).shape == (1, 56)  # reflection padding of 27 in 28 samples
    with pytest.raises(ParameterError, match="6 mel frames are too few"):
        small(residual_blocks=4)(mel01(6))


def test_released_names_of_a_folded_vocoder_are_refused():
    vocoder = small()
    vocoder.remove_weight_norm()
    with pytest.raises(ParameterError, match="weight norms of this vocoder are folded"):
        released_names(vocoder)
