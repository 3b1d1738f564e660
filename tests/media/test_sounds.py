"""Sound files: exact samples, broadcast time stamps, RF64, the sample rate; read by other libraries."""

import os
import stat
import struct
from fractions import Fraction

import numpy as np
import pytest
import soundfile
from wavinfo import WavInfoReader

from unsilent.errors import MediaError, ParameterError
from unsilent.media.audio import read_audio
from unsilent.media.probe import read_comment
from unsilent.media.sounds import GrowingWav, resample, write_sound
from unsilent.media.suffixes import OWN_COMMENT

RATE = 48000


@pytest.fixture
def sound():
    return (0.3 * np.random.default_rng(0).standard_normal((2, 20001))).astype(np.float32)


def chunks(path):
    """Contents of the chunks of a WAV file, by name."""
    content, found = path.read_bytes(), {}
    position = 12
    while position + 8 <= len(content):
        name, size = content[position : position + 4].decode(), struct.unpack("<I", content[position + 4 : position + 8])[0]
        found[name] = content[position + 8 : position + 8 + size]
        position += 8 + size + size % 2
    return found


@pytest.mark.parametrize(("bits", "subtype"), [("16", "PCM_16"), ("24", "PCM_24"), ("32f", "FLOAT")])
def test_wav_has_the_samples(bits, subtype, sound, tmp_path):
    write_sound(tmp_path / "a.wav", sound, RATE, bits)
    about = soundfile.info(tmp_path / "a.wav")
    assert (about.subtype, about.samplerate, about.channels, about.frames) == (subtype, RATE, 2, 20001)
    read = soundfile.read(tmp_path / "a.wav", dtype="float64")[0].T
    if bits == "32f":
        assert np.array_equal(read, sound)
    else:
        full = 2 ** (int(bits) - 1)
        assert np.abs(read * full - (sound * float(full)).clip(-full, full - 1)).max() <= 0.5
    assert read_comment(tmp_path / "a.wav").startswith(OWN_COMMENT)


def test_floating_point_is_exact_above_full_scale(tmp_path):
    loud = np.array([[0.0, 1.5, -2.25]], np.float32)
    write_sound(tmp_path / "a.wav", loud, RATE, "32f")
    assert np.array_equal(soundfile.read(tmp_path / "a.wav", dtype="float32")[0], loud[0])


def test_a_time_reference_is_in_samples_since_midnight(sound, tmp_path):
    write_sound(tmp_path / "a.wav", sound, RATE, "24", Fraction(3600) + Fraction(1001, 30000))
    content = chunks(tmp_path / "a.wav")["bext"]
    assert len(content) == 602
    assert struct.unpack("<Q", content[338:346])[0] == round((3600 + 1001 / 30000) * RATE)
    found = WavInfoReader(str(tmp_path / "a.wav"))
    assert found.bext.time_reference == round((3600 + 1001 / 30000) * RATE)
    assert (found.data.frame_count, found.info.comment.startswith(OWN_COMMENT)) == (20001, True)
    write_sound(tmp_path / "b.wav", sound, RATE, "24")
    assert "bext" not in chunks(tmp_path / "b.wav")


def test_files_above_4_gb_are_rf64(sound, tmp_path, monkeypatch):
    monkeypatch.setattr("unsilent.media.sounds._MAX_RIFF", 50_000)
    write_sound(tmp_path / "a.wav", sound, RATE)
    content = (tmp_path / "a.wav").read_bytes()
    assert (content[:4], content[12:16]) == (b"RF64", b"ds64")
    total, n_bytes, n_samples = struct.unpack("<QQQ", content[20:44])
    assert (total, n_bytes, n_samples) == (len(content) - 8, 80004, 20001)


@pytest.mark.slow
def test_5_gb_are_read_by_other_libraries(tmp_path):
    silence = np.lib.stride_tricks.as_strided(np.zeros(2, np.float32), (2, 670_000_000), (4, 0))
    write_sound(tmp_path / "a.wav", silence, RATE, "32f")
    assert (tmp_path / "a.wav").stat().st_size > 5_000_000_000
    about = soundfile.info(tmp_path / "a.wav")
    assert (about.format, about.frames) == ("RF64", 670_000_000)


@pytest.mark.parametrize("bits", ["16", "24"])
def test_flac_has_the_samples(bits, sound, tmp_path):
    write_sound(tmp_path / "a.flac", sound, RATE, bits)
    about = soundfile.info(tmp_path / "a.flac")
    assert (about.subtype, about.frames, about.channels) == (f"PCM_{bits}", 20001, 2)
    write_sound(tmp_path / "a.wav", sound, RATE, bits)
    assert np.array_equal(*(soundfile.read(tmp_path / name, dtype="int32")[0] for name in ("a.wav", "a.flac")))
    assert read_comment(tmp_path / "a.flac").startswith(OWN_COMMENT)


def test_opus_is_as_long_and_alike(tmp_path):
    tone = (0.3 * np.sin(2 * np.pi * 440 * np.arange(22050) / 22050)).astype(np.float32)[None]
    write_sound(tmp_path / "a.opus", tone, 22050)
    read = read_audio(tmp_path / "a.opus", 48000)
    assert abs(len(read) - 48000) <= 960
    assert (soundfile.info(tmp_path / "a.opus").subtype, soundfile.info(tmp_path / "a.opus").frames) == ("OPUS", 48000)
    assert np.corrcoef(read[4800:43200], resample(tone, 22050, 48000)[0, 4800:43200])[0, 1] > 0.99
    assert read_comment(tmp_path / "a.opus").startswith(OWN_COMMENT)


@pytest.mark.parametrize("rate", [44100, 48000])
def test_resampling_keeps_the_band_and_adds_nothing(rate):
    seconds = np.arange(4 * 22050) / 22050
    for hz in (1000, 9000, 10500):
        made = resample((0.5 * np.sin(2 * np.pi * hz * seconds)).astype(np.float32)[None], 22050, rate)[0]
        assert len(made) == 4 * rate
        middle = made[rate // 2 : -rate // 2]
        window = np.blackman(len(middle))
        found = np.abs(np.fft.rfft(middle * window)) / window.sum() * 2
        near = np.abs(np.fft.rfftfreq(len(middle), 1 / rate) - hz) < 20
        assert 20 * np.log10(found[near].max() / 0.5) == pytest.approx(0, abs=0.01)
        far = np.abs(np.fft.rfftfreq(len(middle), 1 / rate) - hz) > 60
        assert 20 * np.log10(found[far].max() / 0.5) < -110


def test_resampling_has_exact_lengths_and_no_delay():
    click = np.zeros((2, 22051), np.float32)
    click[:, 11025] = 1
    made = resample(click, 22050, 48000)
    assert made.shape == (2, 48002)
    assert int(np.abs(made[0]).argmax()) == 24000
    assert resample(click, 22050, 22050) is click


def test_wrong_formats_and_places_are_refused(sound, tmp_path):
    with pytest.raises(ParameterError, match=r"choose one of \.wav, \.flac, \.opus"):
        write_sound(tmp_path / "a.mp3", sound, RATE)
    with pytest.raises(ParameterError, match="cannot be floating point"):
        write_sound(tmp_path / "a.flac", sound, RATE, "32f")
    with pytest.raises(MediaError, match="cannot be written"):
        write_sound(tmp_path / "none" / "a.wav", sound, RATE)
    assert not list(tmp_path.iterdir())


def test_read_audio_inverts_write_sound(tmp_path):
    waveform = np.random.default_rng(0).uniform(-1, 1, 5000).astype(np.float32)
    write_sound(tmp_path / "a.wav", waveform, 22050)
    again = read_audio(tmp_path / "a.wav", 22050)
    assert np.abs(again - waveform).max() <= 1 / 32768
    write_sound(tmp_path / "b.wav", again, 22050)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()


def test_wav_clips_to_full_scale(tmp_path):
    write_sound(tmp_path / "a.wav", np.array([1.5, -1.5, 0.0], dtype=np.float32), 22050)
    assert read_audio(tmp_path / "a.wav", 22050) == pytest.approx([1, -1, 0], abs=1e-4)


def test_wav_sets_default_permissions(tmp_path):
    (tmp_path / "default").touch()
    write_sound(tmp_path / "a.wav", np.zeros(10, dtype=np.float32), 22050)
    assert stat.S_IMODE((tmp_path / "a.wav").stat().st_mode) == stat.S_IMODE((tmp_path / "default").stat().st_mode)


def test_wav_on_a_full_disk_leaves_the_old_file_only(tmp_path, small_files_only):
    (tmp_path / "a.wav").write_text("old")
    with pytest.raises(MediaError, match=r"a\.wav cannot be written: File too large"):
        write_sound(tmp_path / "a.wav", np.zeros(100_000, dtype=np.float32), 22050)
    assert [path.name for path in tmp_path.iterdir()] == ["a.wav"]
    assert (tmp_path / "a.wav").read_text() == "old"


def test_an_interrupted_wav_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_sound(tmp_path / "a.wav", np.zeros(10, dtype=np.float32), 22050)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("where", ["missing/a.wav", "file/a.wav"])
def test_wav_to_an_unwritable_folder_is_refused(tmp_path, where):
    (tmp_path / "file").touch()
    with pytest.raises(MediaError, match=r"a\.wav cannot be written: (No such file|Not a directory)"):
        write_sound(tmp_path / where, np.zeros(10, dtype=np.float32), 22050)


def test_a_growing_wav_on_a_full_disk_names_the_path(tmp_path, small_files_only):
    with pytest.raises(OSError, match="File too large") as error, GrowingWav(tmp_path / "a.wav", RATE) as file:
        file.write(np.zeros(100_000, np.float32))
    assert error.value.filename == str(tmp_path / "a.wav")
