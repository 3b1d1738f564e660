"""The clip: its lengths equal the paper's, validation, serialisation."""

import pytest

from unsilent.clip import Clip
from unsilent.errors import ParameterError


def test_default_lengths_are_the_papers():
    clip = Clip()
    assert (clip.rows, clip.columns, clip.n_codes) == (5, 53, 265)
    assert (clip.n_samples, clip.n_features, clip.column_samples) == (217088, 212, 4096)
    assert clip.seconds == pytest.approx(9.845, abs=1e-3)


@pytest.mark.parametrize(("n_samples", "columns"), [(1, 1), (4096, 1), (4097, 2), (217088, 53), (217089, 54)])
def test_columns_for_rounds_up(n_samples, columns):
    assert Clip().columns_for(n_samples) == columns


def test_frames_that_are_not_a_multiple_of_the_downsampling_are_refused():
    with pytest.raises(ParameterError, match="860 frames is not a multiple of the downsampling 16"):
        Clip(frames=860)


def test_unknown_keys_are_refused():
    with pytest.raises(ParameterError, match="there is no field 'hops'; did you mean hop"):
        Clip(hops=256)


def test_clip_is_frozen():
    with pytest.raises(Exception, match="frozen"):
        Clip().hop = 128


def test_clip_survives_json():
    clip = Clip(frames=160)
    assert Clip(**clip.model_dump(mode="json")) == clip
