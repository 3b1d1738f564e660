"""Audio: resampling, mixing down, alignment with video, damage, WAV files."""

import os

import av
import numpy as np
import pytest
import soundfile

from unsilent.errors import MediaError, ParameterError
from unsilent.media.audio import read_audio


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_read_audio_resamples_with_the_same_length_level_and_pitch(tmp_path, rate):
    time = np.arange(22050) / 22050
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time), 22050)
    waveform = read_audio(tmp_path / "a.wav", rate)
    assert waveform.dtype == np.float32
    assert len(waveform) == pytest.approx(rate, abs=2)
    inner = waveform[rate // 10 : -rate // 10]
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(waveform)) / rate)[rate // 10 : -rate // 10]
    assert np.abs(inner - expected).max() < 0.002


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE"])
def test_mono_mix_of_equal_channels_keeps_the_level(tmp_path, subtype):
    """FFmpeg's float mix adds 3 dB: two equal channels of 0.5 become 0.707."""
    soundfile.write(tmp_path / "a.wav", np.full((4000, 2), 0.5), 22050, subtype=subtype)
    assert np.abs(read_audio(tmp_path / "a.wav", 22050) - 0.5).max() < 0.01


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 6, 8])
def test_read_audio_accepts_any_number_of_channels(tmp_path, n_channels):
    soundfile.write(tmp_path / "a.wav", np.full((4000, n_channels), 0.25), 22050)
    waveform = read_audio(tmp_path / "a.wav", 22050)
    assert len(waveform) == 4000
    assert np.abs(waveform).max() <= 0.51


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_read_audio_of_a_video(make_clip, clicks, name):
    path = make_clip(name, sound=clicks(17640, 4000)[None])
    waveform = read_audio(path, 22050)
    assert abs(len(waveform) - 17640) < 1024
    assert abs(int(np.abs(waveform).argmax()) - 4000) <= 1


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_audio_is_aligned_with_the_first_frame(make_clip, clicks, name):
    """Late audio is preceded by silence; audio before the first frame is cut."""
    late = read_audio(make_clip(f"late-{name}", sound=clicks(8000, 4000)[None], sound_at=0.4), 22050)
    assert abs(int(np.abs(late).argmax()) - (4000 + 0.4 * 22050)) <= 25
    early = read_audio(make_clip(f"early-{name}", sound=clicks(17640, 12000)[None], first=10), 22050)
    assert abs(int(np.abs(early).argmax()) - (12000 - 0.4 * 22050)) <= 25


def test_gap_in_the_audio_becomes_silence(make_clip, tmp_path, clicks):
    """Audio after a second of lost packets keeps its time."""
    path = make_clip("a.mkv", n_frames=75, sound=clicks(66150, 11025, 55125)[None])
    with av.open(str(path)) as source, av.open(str(tmp_path / "gap.mkv"), "w") as target:
        copies = {stream: target.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        for packet in source.demux():
            lost = packet.stream.type == "audio" and packet.size and 1.0 < packet.pts * packet.time_base < 2.0
            if packet.size and not lost:
                packet.stream = copies[packet.stream]
                target.mux(packet)
    waveform = np.abs(read_audio(tmp_path / "gap.mkv", 22050))
    assert abs(len(waveform) - 66150) <= 1024
    assert abs(int(waveform[:22050].argmax()) - 11025) <= 25
    assert abs(int(waveform[33075:].argmax()) + 33075 - 55125) <= 25


def test_audio_before_a_damaged_end_is_read(make_clip, clicks):
    path = make_clip("a.ts", n_frames=50, sound=clicks(44100, 4000)[None])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + os.urandom(500))
    waveform = read_audio(path, 22050)
    assert 10000 < len(waveform) < 40000
    assert abs(int(np.abs(waveform).argmax()) - 4000) <= 25


def test_video_without_audio_is_refused(make_clip):
    with pytest.raises(MediaError, match=r"a\.mp4 has no audio"):
        read_audio(make_clip("a.mp4"), 22050)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(MediaError, match=r"a\.wav does not exist"):
        read_audio(tmp_path / "a.wav", 22050)


def test_empty_audio_track_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 22050)
    with pytest.raises(MediaError, match="none of it can be decoded"):
        read_audio(tmp_path / "a.wav", 22050)


def test_sample_rate_that_is_not_positive_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="the sample rate is 0 Hz, but must be positive"):
        read_audio(tmp_path / "a.wav", 0)
