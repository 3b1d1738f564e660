"""Priming and lengths: real beginnings that a model continues, sounds shorter or longer than their video."""

import numpy as np
import pytest
import soundfile
import torch

import unsilent
from unsilent.errors import MediaError, ParameterError
from unsilent.generation.priming import Prime
from unsilent.media.audio import read_audio
from unsilent.request import Request
from unsilent.signal.loudness import normalise_loudness

FPS = 25


@pytest.fixture
def video(make_clip):
    """Four seconds."""
    return make_clip("four.mp4", n_frames=4 * FPS)


@pytest.fixture
def knock(tmp_path):
    """Two seconds: a decaying tone every half second."""
    times = np.arange(44100) / 22050
    soundfile.write(tmp_path / "knock.wav", 0.3 * np.sin(2 * np.pi * 700 * times) * np.exp(-8 * (times % 0.5)), 22050, subtype="FLOAT")
    return tmp_path / "knock.wav"


def test_a_prime_is_the_beginning_and_the_rest_continues_it(pipeline, video, knock):
    """Codes of the real sound, then others than without it, which depend on it and not on what follows it in its file."""
    real, _ = soundfile.read(knock, dtype="float32")
    primed, free = (pipeline.generate(video, seed=3, **fields) for fields in ({"prime": str(knock), "prime_seconds": 1.0}, {}))
    kept = normalise_loudness(real[: 5 * pipeline.clip.column_samples], 22050)
    assert np.array_equal(primed.codes[:, :5], pipeline.codec.encode(kept).numpy())
    assert not np.array_equal(primed.codes[:, 5:], free.codes[:, 5:])
    assert primed.request.prime_seconds == 1.0
    soundfile.write(knock, np.concatenate([real[: 5 * pipeline.clip.column_samples], 0 * real]), 22050, subtype="FLOAT")
    again = pipeline.generate(video, seed=3, prime=str(knock), prime_seconds=1.0)
    assert np.array_equal(again.codes, primed.codes)


def test_kept_samples_of_a_prime_are_the_very_samples(pipeline, video, knock):
    real, _ = soundfile.read(knock, dtype="float32")
    made = pipeline.generate(video, prime=str(knock), prime_seconds=1.0, prime_keep="samples")
    n_kept, n_faded = 5 * pipeline.clip.column_samples, round(0.05 * 22050)
    np.testing.assert_allclose(made.waveform[: n_kept - n_faded], real[: n_kept - n_faded], atol=1e-4)
    assert len(made.waveform) == 4 * 22050
    assert np.abs(made.waveform[n_kept:]).max() > 0


def test_join_has_no_step_and_the_power_of_the_real_sound():
    rng = np.random.default_rng(0)
    real, made = (rng.standard_normal(n).astype(np.float32) * level for n, level in ((22050, 0.05), (44100, 0.2)))
    joined = Prime(torch.zeros(5, 5, dtype=torch.long), real, 22050).join(made)
    powers = [np.square(joined[start : start + 1102]).mean() for start in range(19000, 25000, 551)]  # around the join
    assert max(powers) < 1.5 * min(powers)
    assert np.abs(np.diff(joined)).max() < 0.4


def test_a_prime_may_be_the_own_sound_of_the_video(pipeline, make_clip, video):
    tone = 0.3 * np.sin(2 * np.pi * 500 / 22050 * np.arange(4 * 22050))[None]
    sounding = make_clip("sounding.mkv", n_frames=4 * FPS, sound=tone, sound_codec="pcm_s16le")
    own, file = (pipeline.generate(sounding, prime=prime, prime_seconds=2) for prime in ("own", str(sounding)))
    assert np.array_equal(own.codes, file.codes)
    with pytest.raises(MediaError, match=r"four.mp4 has no audio"):
        pipeline.generate(video, prime="own")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prime_seconds": 2.0}, "prime_seconds and prime_keep need a prime, but prime is not given"),
        ({"prime_keep": "samples"}, "prime_seconds and prime_keep need a prime, but prime is not given"),
        ({"prime": "knock.wav", "prime_seconds": 3}, r"knock.wav has 2.00 s of sound, but prime_seconds is 3; lower it"),
        ({"prime": "knock.wav", "prime_seconds": 0.1}, r"prime_seconds is 0.1, but a code column of this model lasts 0.19"),
        ({"prime": "knock.wav", "prime_seconds": 0}, "prime_seconds is 0, but must be above 0"),
        ({"seconds": 0}, "seconds is 0, but must be above 0"),
    ],
)
def test_unusable_primes_and_lengths_are_refused(pipeline, video, knock, fields, words):
    fields = {name: str(knock) if value == "knock.wav" else value for name, value in fields.items()}
    with pytest.raises(ParameterError, match=words):
        pipeline.generate(video, **fields)


def test_a_sound_may_be_longer_or_shorter_than_its_video(pipeline, video, tmp_path):
    """A longer one begins as one as long as the video, because later windows change nothing before them."""
    same, longer, shorter = (pipeline.generate(video, seed=1, seconds=seconds) for seconds in (None, 14.0, 1.5))
    assert [len(made.waveform) for made in (same, longer, shorter)] == [4 * 22050, 14 * 22050, round(1.5 * 22050)]
    assert np.array_equal(longer.codes[:, : same.codes.shape[1]], same.codes)
    longer.save_video(tmp_path / "longer.mp4")
    assert len(read_audio(tmp_path / "longer.mp4", 22050)) == pytest.approx(14 * 22050, abs=2048)


def test_what_is_not_asked_of_a_prime_is_not_in_the_recipe():
    assert not {"prime", "prime_seconds", "prime_keep", "seconds"} & Request().describe().keys()
    assert Request(prime="own", seconds=3).describe()["prime_keep"] == "codes"


def test_the_default_model_continues_a_real_sound(video, knock):
    """Its codebook has more levels than its sampler predicts."""
    default = unsilent.load("everyday", device="cpu")
    made = default.generate(video, prime=str(knock), prime_seconds=1.0)
    assert made.codes.shape[0] == default.clip.rows < default.codec.codebook.rows
    beginning = normalise_loudness(soundfile.read(knock, dtype="float32")[0][: 5 * default.clip.column_samples], 22050)
    assert np.array_equal(made.codes[:, :5], default.codec.encode(beginning)[: default.clip.rows].numpy())
