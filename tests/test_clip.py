"""Every length derives from the clip, so its arithmetic is pinned to the paper's numbers here and nowhere else."""

import pytest

from unsilent.clip import Clip
from unsilent.errors import ParameterError


def test_the_papers_numbers():
    clip = Clip()
    assert (clip.rows, clip.columns, clip.n_codes) == (5, 53, 265)
    assert (clip.n_samples, clip.n_features, clip.column_samples) == (217088, 212, 4096)
    assert clip.seconds == pytest.approx(9.845, abs=1e-3)


@pytest.mark.parametrize(("n_samples", "columns"), [(1, 1), (4096, 1), (4097, 2), (217088, 53), (217089, 54)])
def test_columns_cover_the_sound(n_samples, columns):
    assert Clip().columns_for(n_samples) == columns


def test_frames_that_do_not_divide_are_refused_with_both_numbers():
    with pytest.raises(ParameterError, match="860 frames is not a whole multiple of the downsampling 16"):
        Clip(frames=860)


def test_unknown_keys_are_refused():
    with pytest.raises(ParameterError, match="Clip: hops"):
        Clip(hops=256)


def test_a_clip_is_frozen():
    with pytest.raises(Exception, match="frozen"):
        Clip().hop = 128


def test_json_round_trip():
    clip = Clip(frames=160)
    assert Clip(**clip.model_dump(mode="json")) == clip
