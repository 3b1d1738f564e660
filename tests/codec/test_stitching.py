"""Stitching: windows and chunks must equal the whole."""

import weakref

import pytest
import torch

from unsilent.clip import Clip
from unsilent.codec.stitching import OVERLAP_COLUMNS, chunk_frames, decode_grid, vocode
from unsilent.models.codebook import Codebook
from unsilent.models.configs import CodebookConfig, VocosConfig
from unsilent.models.vocos import Vocos

TINY_CLIP = Clip(mels=16, frames=48, downsampling=4, n_fft=256, hop=64, feature_fps=20)


@pytest.fixture
def codebook():
    torch.manual_seed(0)
    return Codebook(CodebookConfig(clip=TINY_CLIP, n_codes=16, dim=8, channels=8, multipliers=(1, 1, 2), n_blocks=1)).eval()


@pytest.mark.parametrize("columns", [1, 12, 13, 14, 20, 40])
def test_any_length_gives_whole_columns(codebook, columns):
    grid = torch.randint(16, (4, columns), generator=torch.Generator().manual_seed(1))
    mel = decode_grid(codebook, grid)
    assert mel.shape == (16, columns * 4)
    assert mel.isfinite().all()


@pytest.mark.parametrize("columns", [12, 13])
def test_up_to_an_eighth_more_than_a_clip_is_one_window(codebook, columns):
    grid = torch.randint(16, (4, columns), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(decode_grid(codebook, grid), codebook.decode_codes(grid[None])[0])


def test_cross_fade_has_no_jump(codebook):
    """Equal codes decode to a stationary texture, so frames differ from the next no more where windows meet than elsewhere."""
    grid = torch.full((4, 30), 3)
    steps = decode_grid(codebook, grid).diff(dim=1).abs().mean(0)
    seam = 12 * 4  # end of the first window
    assert steps[seam - 6 : seam + 6].max() <= steps[: seam - 6].max() + 1e-4


def test_overlap_fits_into_a_clip():
    assert Clip().columns > OVERLAP_COLUMNS


def test_chunked_vocoding_equals_one_pass():
    torch.manual_seed(0)
    vocoder = Vocos(VocosConfig(width=16, hidden=32, n_blocks=3)).eval()
    frames = chunk_frames(vocoder.context_frames, torch.device("cpu")) + 300
    mel01 = torch.rand(80, frames)
    with torch.inference_mode():
        whole = vocoder(mel01[None])[0]
    pieces = vocode(vocoder, mel01, vocoder.context_frames, 256)
    assert pieces.shape == (frames * 256,)
    torch.testing.assert_close(pieces, whole, atol=1e-5, rtol=0)


def test_chunks_without_context_differ():
    """Without context, chunks differ from one pass, which shows that the test above can fail."""
    torch.manual_seed(0)
    vocoder = Vocos(VocosConfig(width=16, hidden=32, n_blocks=3)).eval()
    mel01 = torch.rand(80, 300)
    with torch.inference_mode():
        whole = vocoder(mel01[None])[0]
    assert (vocode(vocoder, mel01, 0, 256) - whole).abs().max() > 1e-3


def test_memory_is_one_window_for_any_length(codebook, monkeypatch):
    made, decode = [], codebook.decode_codes

    def watched(grid, start_column):
        window = decode(grid, start_column)
        made.append((grid.shape[2], weakref.ref(window)))
        assert sum(kept() is not None for _, kept in made) <= 2  # the one before is let go while this one takes its place
        return window

    monkeypatch.setattr(codebook, "decode_codes", watched)
    decode_grid(codebook, torch.zeros(4, 100, dtype=torch.long))
    assert {columns for columns, _ in made} == {TINY_CLIP.columns}
    assert not any(kept() is not None for _, kept in made)


def test_memory_is_one_chunk_for_any_length():
    made = []

    def vocoder(mel01):
        waveform = mel01.mean(1).repeat_interleave(64, dim=1)
        made.append((mel01.shape[2], weakref.ref(waveform)))
        assert sum(kept() is not None for _, kept in made) <= 2
        return waveform

    vocode(vocoder, torch.rand(16, 1000), 3, 64)
    assert max(frames for frames, _ in made) == chunk_frames(3, torch.device("cpu")) + 2 * 3
    assert not any(kept() is not None for _, kept in made)
