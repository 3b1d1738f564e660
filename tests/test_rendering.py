"""Sound that is made while codes are still to come: the same as afterwards, nothing too early, and nothing left running."""

import threading
import weakref

import pytest
import torch

from unsilent.clip import Clip
from unsilent.models.code_order import to_sequence
from unsilent.models.codebook import Codebook, CodebookConfig
from unsilent.models.vocos import Vocos, VocosConfig
from unsilent.rendering import Renderer, Rendering
from unsilent.stitching import CHUNK_CONTEXTS

CLIP = Clip(mels=16, frames=48, downsampling=4, n_fft=256, hop=64, feature_fps=20)
N_COLUMNS = 150  # several chunks of the vocoder


@pytest.fixture
def renderer():
    torch.manual_seed(0)
    codebook = Codebook(CodebookConfig(clip=CLIP, n_codes=16, dim=8, channels=8, multipliers=(1, 1, 2), n_blocks=1)).eval()
    vocoder = Vocos(VocosConfig(clip=CLIP, width=16, hidden=32, n_blocks=1, rounds=0)).eval()
    return Renderer(codebook, vocoder, torch.device("cpu"), False)


@pytest.fixture
def grids():
    return torch.randint(16, (2, CLIP.rows, N_COLUMNS), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def decoded(renderer, monkeypatch):
    """Widths of what has been decoded, and what became of it."""
    decode, calls = renderer.codebook.decode_codes, []

    def watched(grid):
        window = decode(grid)
        calls.append((grid.shape[2], weakref.ref(window)))
        return window

    monkeypatch.setattr(renderer.codebook, "decode_codes", watched)
    return calls


def hear_all(rendering, grids):
    sequences = to_sequence(grids)
    for column in range(grids.shape[2]):
        rendering.hear(sequences[:, : (column + 1) * CLIP.rows])


@pytest.mark.parametrize("n_columns", [3, 12, 13, N_COLUMNS])
@pytest.mark.parametrize("takes", [1, 2])
def test_made_beside_is_made_afterwards_to_the_bit(renderer, grids, n_columns, takes):
    grids = grids[:takes, :, :n_columns]
    with Rendering(renderer, n_columns, takes) as rendering:
        hear_all(rendering, grids)
        rendering.wait()
        for take, grid in enumerate(grids):
            mel = renderer.decode(grid)
            assert torch.equal(rendering.decode(take, grid), mel)
            assert torch.equal(rendering.vocode(take), renderer.vocode(mel))


def test_griffin_lim_waits_for_the_whole(renderer, grids):
    renderer.vocoder = None
    with Rendering(renderer, 20, 1) as rendering:
        hear_all(rendering, grids[:1, :, :20])
        rendering.wait()
        mel = rendering.decode(0, grids[0, :, :20])
        assert torch.equal(rendering.vocode(0), renderer.vocode(mel))


def test_all_but_the_last_window_is_decoded_before_the_end(renderer, grids, decoded):
    with Rendering(renderer, 30, 1) as rendering:
        sequence = to_sequence(grids[:1])
        rendering.hear(sequence[:, : 12 * CLIP.rows - 1])
        rendering.wait()
        assert not decoded
        hear_all(rendering, grids[:1, :, :30])
        rendering.wait()
        n_early = len(decoded)
        rendering.decode(0, grids[0, :, :30])
        assert len(decoded) == n_early + 1


def test_one_clip_needs_no_thread(renderer, grids, decoded):
    with Rendering(renderer, CLIP.columns, 1) as rendering:
        hear_all(rendering, grids[:1, :, : CLIP.columns])
        assert not decoded
        assert threading.active_count() == 1


def test_no_more_than_a_window_is_kept_however_long_the_sound(renderer, grids, decoded, monkeypatch):
    heard, vocoder = [], renderer.vocoder.forward
    monkeypatch.setattr(renderer.vocoder, "forward", lambda mel01: (heard.append(mel01.shape[2]), vocoder(mel01))[1])
    mel = renderer.decode(grids[0])
    renderer.vocode(mel)
    assert {width for width, _ in decoded} == {CLIP.columns}
    assert len(heard) > 1
    assert max(heard) <= (CHUNK_CONTEXTS["cpu"] + 2) * renderer.vocoder.context_frames
    assert [window() for _, window in decoded] == [None] * len(decoded)


def test_what_goes_wrong_beside_is_told(renderer, grids, monkeypatch):
    monkeypatch.setattr(renderer.codebook, "decode_codes", lambda grid: 1 / 0)
    with Rendering(renderer, 30, 1) as rendering:
        hear_all(rendering, grids[:1, :, : CLIP.columns])
        with pytest.raises(ZeroDivisionError):
            rendering.wait()
    assert threading.active_count() == 1


def test_an_interruption_leaves_no_work_behind(renderer, grids, decoded):
    def interrupted():
        with Rendering(renderer, N_COLUMNS, 1) as rendering:
            hear_all(rendering, grids[:1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    n_decoded = len(decoded)
    assert threading.active_count() == 1
    assert n_decoded == len(decoded)
