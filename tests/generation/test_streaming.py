"""Streaming: equal bytes however it is consumed, causality, limits of peaks, both kinds of models, live pictures."""

import io
import sys

import numpy as np
import pytest
import soundfile
import torch

from unsilent.errors import MediaError, ParameterError
from unsilent.generation.sampling import draw_uniforms, uniform_stream
from unsilent.generation.streaming import LIVE, Pace, join, render_codes
from unsilent.media.sounds import GrowingWav, as_bytes, write_sound
from unsilent.pipeline import Pipeline
from unsilent.request import Request
from unsilent.signal.loudness import PeakLimiter, limit_peaks

RATE = 22050


@pytest.fixture
def video(make_clip):
    """Six seconds whose pictures change."""
    return make_clip("a.mp4", n_frames=60, fps=10)


def test_stretches_are_the_whole_byte_by_byte(seeing, video):
    """The whole made by the same rules, and the whole decoded from the codes afterwards."""
    stretches = []
    for stretch in seeing.stream(video, seed=5):
        stretches.append(stretch)
        seeing.generate(video, seconds=0.3)  # other work between two stretches
    whole, made = join(stretches), seeing.generate(video, seed=5, stream=True)
    assert len(stretches) > 3
    assert len(whole.waveform) == 6 * RATE
    assert whole.waveform.tobytes() == made.waveform.tobytes()
    assert np.array_equal(whole.codes, made.codes)
    assert render_codes(seeing.codec, made.codes, 6 * RATE).tobytes() == made.waveform.tobytes()
    assert made.mel.shape[1] == made.codes.shape[1] * seeing.clip.downsampling


def test_a_stream_depends_on_the_past_only(seeing, make_clip, draw):
    """Two videos that differ from second 4 on give the same sound until the look-ahead reaches there, and then another."""

    def clip(name, by):
        return make_clip(name, n_frames=60, fps=10, images=lambda i: draw(i if i < 40 else i * by % 256))

    one, two = clip("x.mp4", 1), clip("y.mp4", 77)
    first, second = (seeing.generate(clip, seed=1, stream=True).codes for clip in (one, two))
    same = int(np.argmax((first != second).any(0)))
    assert 15 <= same <= 30  # columns of 0.186 s; four are looked ahead


def test_a_stream_of_a_longer_video_begins_alike(seeing, make_clip):
    short, long = (make_clip(f"{n}.mp4", n_frames=n, fps=10) for n in (50, 80))
    one, two = (seeing.generate(clip, stream=True).codes for clip in (short, long))
    assert np.array_equal(one[:, :20], two[:, :20])


def test_a_stream_crosses_windows(seeing, make_clip):
    made = seeing.generate(make_clip("long.mp4", n_frames=40, fps=2), stream=True)
    assert len(made.waveform) == 20 * RATE
    assert made.codes.shape == (2, 108)
    assert made.codes[:, 53:].std() > 0


def test_long_streams_forget_and_stay_the_same(seeing, make_clip):
    """What is dropped behind a window is not needed again."""
    stream = seeing.stream(make_clip("long.mp4", n_frames=30, fps=1))
    whole = join(list(stream))
    assert render_codes(seeing.codec, whole.codes, 30 * RATE).tobytes() == whole.waveform.tobytes()
    assert len(stream._codes._kept) < 130 < whole.codes.shape[1]
    assert len(stream._observer._windows) <= 5


def test_models_that_need_a_clip_stream_a_clip_later(pipeline, make_clip):
    """With the codes of an ordinary generation, whose windows are decoded as they are there."""
    video = make_clip("a.mp4", n_frames=32, fps=2)
    stretches = list(pipeline.stream(video, seed=2))
    plain = pipeline.generate(video, seed=2)
    whole = join(stretches)
    assert len(stretches) == 2
    assert np.array_equal(whole.codes, plain.codes)
    assert np.array_equal(whole.mel, plain.mel)
    assert whole.waveform.tobytes() == pipeline.generate(video, seed=2, stream=True).waveform.tobytes()


def test_griffin_lim_streams_at_the_end(parts, video):
    slow = Pipeline(parts, torch.device("cpu"), vocoder="griffin-lim")
    assert len(join(list(slow.stream(video, seconds=1.0))).waveform) == RATE


@pytest.mark.parametrize("fields", [{"takes": 2}, {"candidates": 3}, {"prime": "own"}], ids=str)
def test_what_needs_the_whole_cannot_stream(seeing, fields):
    with pytest.raises(ParameterError, match="a stream is one sound that is played while it is made"):
        seeing.resolve(stream=True, **fields)


def test_recipes_name_streams():
    assert Request(stream=True).describe()["stream"] is True
    assert "stream" not in Request().describe()


@pytest.mark.parametrize("n", [None, 1, 2, 3, 54])
def test_chunks_cover_all_columns_and_grow(n):
    chunks = Pace(16).chunks(n)
    found = [next(chunks) for _ in range(6)] if n is None else list(chunks)
    assert [column for chunk in found for column in chunk] == list(range(found[-1].stop))
    assert [len(chunk) for chunk in found][:5] == [2, 4, 8, 16, 16] or n in (1, 2, 3, 54)
    assert n is None or found[-1].stop == n


@pytest.mark.parametrize("sizes", [[1] * 3000, [500, 7, 2493], [3000]], ids=len)
def test_the_limiter_of_a_stream_is_that_of_the_whole(sizes):
    sound = (0.6 * np.random.default_rng(0).standard_normal(3000)).astype(np.float32)
    limiter, place, parts = PeakLimiter(RATE, 0.8), 0, []
    for size in sizes:
        parts.append(limiter.push(sound[place : place + size]))
        place += size
    limited = np.concatenate([*parts, limiter.finish()])
    np.testing.assert_allclose(limited, limit_peaks(sound, RATE, 0.8), atol=1e-6)
    assert np.abs(limited).max() <= 0.8


def test_random_numbers_of_a_stream_are_those_of_a_take():
    stream = uniform_stream(7, 3)
    assert np.array_equal(np.concatenate([stream.random(5) for _ in range(4)]), draw_uniforms(7, 3, 20))


def test_growing_files_have_the_bytes_of_whole_ones(tmp_path):
    sound = np.random.default_rng(0).uniform(-1.1, 1.1, 5000).astype(np.float32)
    with GrowingWav(tmp_path / "grown.wav", RATE) as file:
        for start in range(0, 5000, 999):
            file.write(sound[start : start + 999])
            assert soundfile.info(tmp_path / "grown.wav").samplerate == RATE
    write_sound(tmp_path / "whole.wav", sound[None], RATE)
    assert (tmp_path / "grown.wav").read_bytes() == (tmp_path / "whole.wav").read_bytes()
    assert as_bytes(sound[None], "16") == soundfile.read(tmp_path / "whole.wav", dtype="int16")[0].tobytes()
    with pytest.raises(MediaError, match="cannot be written"):
        GrowingWav(tmp_path / "none" / "x.wav", RATE)


class TestLive:
    """Pictures from standard input."""

    @pytest.fixture
    def piped(self, monkeypatch):
        return lambda content: monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))

    def test_a_container_on_a_pipe_sounds_until_it_ends(self, seeing, make_clip, piped):
        piped(make_clip("a.mkv", n_frames=40, fps=10).read_bytes())
        stretches = list(seeing.live("-", seed=1))
        whole = join(stretches)
        assert 3.9 < len(whole.waveform) / RATE < 4.4
        assert len(stretches) >= 20
        assert render_codes(seeing.codec, whole.codes, len(whole.waveform), LIVE).tobytes() == whole.waveform.tobytes()

    def test_raw_pictures_on_a_pipe(self, seeing, piped, draw):
        piped(b"".join(draw(number).tobytes() for number in range(30)))
        whole = join(list(seeing.live("-", raw=(64, 48, 10.0), label="dog")))
        assert 2.9 < len(whole.waveform) / RATE < 3.4

    def test_other_models_are_refused(self, pipeline, piped):
        with pytest.raises(ParameterError, match="needs a whole clip"):
            pipeline.live("-")

    def test_what_is_no_video_is_named(self, seeing, piped):
        piped(b"no video" * 100)
        with pytest.raises(MediaError, match="- cannot be opened as video"):
            list(seeing.live("-"))
