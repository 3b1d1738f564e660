import os
import stat

import av
import numpy as np
import pytest
import soundfile

from unsilent.errors import MediaError, ParameterError
from unsilent.media.audio import read_audio, write_wav


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000])
def test_resampling_keeps_length_level_and_pitch(tmp_path, rate):
    time = np.arange(22050) / 22050
    soundfile.write(tmp_path / "a.wav", 0.5 * np.sin(2 * np.pi * 440 * time), 22050)
    waveform = read_audio(tmp_path / "a.wav", rate)
    assert waveform.dtype == np.float32
    assert len(waveform) == pytest.approx(rate, abs=2)
    inner = waveform[rate // 10 : -rate // 10]
    expected = 0.5 * np.sin(2 * np.pi * 440 * np.arange(len(waveform)) / rate)[rate // 10 : -rate // 10]
    assert np.abs(inner - expected).max() < 0.002


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE"])
def test_equal_channels_keep_their_level(tmp_path, subtype):
    """FFmpeg's float down-mix adds 3 dB: two equal channels of 0.5 came out as 0.707."""
    soundfile.write(tmp_path / "a.wav", np.full((4000, 2), 0.5), 22050, subtype=subtype)
    assert np.abs(read_audio(tmp_path / "a.wav", 22050) - 0.5).max() < 0.01


@pytest.mark.parametrize("n_channels", [1, 2, 3, 4, 6, 8])
def test_any_number_of_channels(tmp_path, n_channels):
    soundfile.write(tmp_path / "a.wav", np.full((4000, n_channels), 0.25), 22050)
    waveform = read_audio(tmp_path / "a.wav", 22050)
    assert len(waveform) == 4000
    assert np.abs(waveform).max() <= 0.51


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_sound_of_a_video(make_clip, clicks, name):
    path = make_clip(name, sound=clicks(17640, 4000)[None])
    waveform = read_audio(path, 22050)
    assert abs(len(waveform) - 17640) < 1024
    assert abs(int(np.abs(waveform).argmax()) - 4000) <= 1


@pytest.mark.parametrize("name", ["a.mkv", "a.mp4"])
def test_sound_is_aligned_with_the_first_picture(make_clip, clicks, name):
    """Sound that sets in late is preceded by silence, sound from before the first picture is left out."""
    late = read_audio(make_clip(f"late-{name}", sound=clicks(8000, 4000)[None], sound_at=0.4), 22050)
    assert abs(int(np.abs(late).argmax()) - (4000 + 0.4 * 22050)) <= 25
    early = read_audio(make_clip(f"early-{name}", sound=clicks(17640, 12000)[None], first=10), 22050)
    assert abs(int(np.abs(early).argmax()) - (12000 - 0.4 * 22050)) <= 25


def test_a_hole_in_the_sound_stays_a_hole(make_clip, tmp_path, clicks):
    """Where a second of packets is lost, what follows must not slip forward."""
    path = make_clip("a.mkv", n_frames=75, sound=clicks(66150, 11025, 55125)[None])
    with av.open(str(path)) as source, av.open(str(tmp_path / "hole.mkv"), "w") as target:
        copies = {stream: target.add_stream_from_template(stream, opaque=True) for stream in source.streams}
        for packet in source.demux():
            lost = packet.stream.type == "audio" and packet.size and 1.0 < packet.pts * packet.time_base < 2.0
            if packet.size and not lost:
                packet.stream = copies[packet.stream]
                target.mux(packet)
    waveform = np.abs(read_audio(tmp_path / "hole.mkv", 22050))
    assert abs(len(waveform) - 66150) <= 1024
    assert abs(int(waveform[:22050].argmax()) - 11025) <= 25
    assert abs(int(waveform[33075:].argmax()) + 33075 - 55125) <= 25


def test_a_damaged_tail_keeps_what_came_before(make_clip, clicks):
    path = make_clip("a.ts", n_frames=50, sound=clicks(44100, 4000)[None])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + os.urandom(500))
    waveform = read_audio(path, 22050)
    assert 10000 < len(waveform) < 40000
    assert abs(int(np.abs(waveform).argmax()) - 4000) <= 25


def test_no_sound(make_clip):
    with pytest.raises(MediaError, match=r"a\.mp4 has no sound"):
        read_audio(make_clip("a.mp4"), 22050)


def test_missing_file(tmp_path):
    with pytest.raises(MediaError, match=r"a\.wav does not exist"):
        read_audio(tmp_path / "a.wav", 22050)


def test_sound_track_without_sound(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.zeros(0), 22050)
    with pytest.raises(MediaError, match="nothing of it can be decoded"):
        read_audio(tmp_path / "a.wav", 22050)


def test_impossible_rate(tmp_path):
    with pytest.raises(ParameterError, match="a sample rate of 0 Hz was asked for; it must be positive"):
        read_audio(tmp_path / "a.wav", 0)


def test_wav_round_trip(tmp_path):
    waveform = np.random.default_rng(0).uniform(-1, 1, 5000).astype(np.float32)
    write_wav(tmp_path / "a.wav", waveform, 22050)
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    assert np.abs(read_audio(tmp_path / "a.wav", 22050) - waveform).max() <= 1.01 / 32768


def test_wav_is_clipped_not_wrapped(tmp_path):
    write_wav(tmp_path / "a.wav", np.array([1.5, -1.5, 0.0], dtype=np.float32), 22050)
    assert read_audio(tmp_path / "a.wav", 22050) == pytest.approx([1, -1, 0], abs=1e-4)


def test_wav_has_the_permissions_of_any_new_file(tmp_path):
    (tmp_path / "usual").touch()
    write_wav(tmp_path / "a.wav", np.zeros(10, dtype=np.float32), 22050)
    assert stat.S_IMODE((tmp_path / "a.wav").stat().st_mode) == stat.S_IMODE((tmp_path / "usual").stat().st_mode)


def test_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, small_files_only):
    (tmp_path / "a.wav").write_text("old")
    with pytest.raises(MediaError, match=r"a\.wav cannot be written: File too large"):
        write_wav(tmp_path / "a.wav", np.zeros(100_000, dtype=np.float32), 22050)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_text() == "old"


def test_interruption_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_wav(tmp_path / "a.wav", np.zeros(10, dtype=np.float32), 22050)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["missing/a.wav", "file/a.wav"])
def test_folder_that_cannot_be_written(tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match=r"a\.wav cannot be written: (No such file|Not a directory)"):
        write_wav(tmp_path / where, np.zeros(10, dtype=np.float32), 22050)
