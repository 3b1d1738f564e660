"""Streaming decoding: equal to decoding at the end, without early results, and without threads left at the end."""

import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from unsilent.clip import Clip
from unsilent.codec.codec import Codec
from unsilent.codec.stitching import chunk_frames
from unsilent.generation.rendering import Rendering
from unsilent.models.code_order import to_sequence
from unsilent.models.codebook import Codebook
from unsilent.models.configs import CodebookConfig, VocosConfig
from unsilent.models.vocos import Vocos
from unsilent.speed.threads import limit_threads, one_thread

CLIP = Clip(mels=16, frames=48, downsampling=4, n_fft=256, hop=64, feature_fps=20)
N_COLUMNS = 150  # several chunks of the vocoder


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def codec(request):
    torch.manual_seed(0)
    codebook = Codebook(CodebookConfig(clip=CLIP, n_codes=16, dim=8, channels=8, multipliers=(1, 1, 2), n_blocks=1)).eval()
    vocoder = Vocos(VocosConfig(clip=CLIP, width=16, hidden=32, n_blocks=1, rounds=0)).eval()
    device = torch.device(request.param)
    return Codec(codebook.to(device), vocoder.to(device), device)


@pytest.fixture
def grids(codec):
    return torch.randint(16, (2, CLIP.rows, N_COLUMNS), generator=torch.Generator().manual_seed(1)).to(codec.device)


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = threading.active_count()
    yield
    assert threading.active_count() == before


@pytest.fixture
def decoded(codec, monkeypatch):
    """Widths of the decoded windows, and the decoder's results."""
    decode, calls = codec.codebook.decode_codes, []

    def watched(grid, start_column):
        window = decode(grid, start_column)
        calls.append((grid.shape[2], weakref.ref(window)))
        return window

    monkeypatch.setattr(codec.codebook, "decode_codes", watched)
    return calls


def feed_all(rendering, grids):
    sequences = to_sequence(grids)
    for column in range(grids.shape[2]):
        rendering.feed(sequences[:, : (column + 1) * CLIP.rows])


@pytest.mark.parametrize("n_columns", [3, 12, 13, N_COLUMNS])
@pytest.mark.parametrize("takes", [1, 2])
def test_streaming_equals_decoding_at_the_end_to_the_bit(codec, grids, n_columns, takes):
    grids = grids[:takes, :, :n_columns]
    with Rendering(codec, n_columns) as rendering:
        feed_all(rendering, grids)
        rendering.wait()
        for take, grid in enumerate(grids):
            mel = codec.decode(grid)
            assert torch.equal(rendering.decode(take, grid), mel)
            assert torch.equal(rendering.vocode(take), codec.vocode(mel))


def test_griffin_lim_waits_for_the_whole_mel(codec, grids):
    codec.vocoder = None
    with Rendering(codec, 20) as rendering:
        feed_all(rendering, grids[:1, :, :20])
        rendering.wait()
        mel = rendering.decode(0, grids[0, :, :20])
        assert torch.equal(rendering.vocode(0), codec.vocode(mel))


def test_all_but_the_last_window_is_decoded_before_the_end(codec, grids, decoded):
    with Rendering(codec, 30) as rendering:
        sequence = to_sequence(grids[:1])
        rendering.feed(sequence[:, : 12 * CLIP.rows - 1])
        rendering.wait()
        assert not decoded
        feed_all(rendering, grids[:1, :, :30])
        rendering.wait()
        n_early = len(decoded)
        rendering.decode(0, grids[0, :, :30])
        assert len(decoded) == n_early + 1


def test_one_clip_needs_no_thread(codec, grids, decoded):
    with Rendering(codec, CLIP.columns) as rendering:
        feed_all(rendering, grids[:1, :, : CLIP.columns])
        rendering.wait()
        assert not decoded


def test_memory_is_one_window_for_any_length(codec, grids, decoded, monkeypatch):
    heard, vocoder, context = [], codec.vocoder.forward, codec.vocoder.context_frames
    monkeypatch.setattr(codec.vocoder, "forward", lambda mel01: (heard.append(mel01.shape[2]), vocoder(mel01))[1])
    mel = codec.decode(grids[0])
    codec.vocode(mel)
    assert {width for width, _ in decoded} == {CLIP.columns}
    assert len(heard) > 1 or codec.device.type == "cuda"
    assert max(heard) <= chunk_frames(context, codec.device) + 2 * context
    assert [window() for _, window in decoded] == [None] * len(decoded)


def feed_until_error(rendering, grids):
    while True:  # the thread may still be on its way from failing to having failed
        rendering.feed(to_sequence(grids))


@pytest.mark.parametrize("told_by", [feed_until_error, lambda rendering, _: rendering.wait()], ids=["feed", "wait"])
def test_background_errors_are_raised(codec, grids, monkeypatch, told_by):
    monkeypatch.setattr(codec.codebook, "decode_codes", lambda *_: 1 / 0)
    first = grids[:1, :, : CLIP.columns]
    with Rendering(codec, 30) as rendering:
        feed_all(rendering, first)
        with pytest.raises(ZeroDivisionError):
            told_by(rendering, first)


def test_interrupt_cancels_pending_windows(codec, grids, decoded, monkeypatch):
    decode = codec.codebook.decode_codes
    monkeypatch.setattr(codec.codebook, "decode_codes", lambda *place: (time.sleep(0.1), decode(*place))[1])

    def interrupted():
        with Rendering(codec, N_COLUMNS) as rendering:
            feed_all(rendering, grids)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(decoded) < 20  # of 68


def test_background_thread_has_the_threads_of_the_codec(codec, grids):
    """It does not inherit the single thread of a sampler, and its count does not affect threads that start later."""
    codec.threads = 3
    with limit_threads(2):
        with Rendering(codec, 30) as rendering:
            with one_thread():
                feed_all(rendering, grids[:1, :, :30])
                assert rendering._background.submit(torch.get_num_threads).result() == 3
            rendering.wait()
        torch.set_num_threads(2)  # as `Pipeline` does when it ends
        with ThreadPoolExecutor(1) as other:
            assert other.submit(torch.get_num_threads).result() == 2
