"""The sound that a video has already: levels, tracks, ducking."""

from fractions import Fraction

import av
import numpy as np
import pytest

from unsilent.errors import MediaError
from unsilent.media.audio import read_audio
from unsilent.media.mux import mux, plan_mux
from unsilent.media.own_sound import OwnSound

RATE = 22050
SECONDS = 1.0


def tone(hz, amplitude=0.25, rate=48000, seconds=SECONDS):
    return (amplitude * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def with_tracks(plain, path, *tracks):
    """A copy of a video with audio tracks of (channels, layout, language)."""
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
        streams = [target.add_stream("pcm_f32le", rate=48000) for _ in tracks]
        for stream, (_, layout, language) in zip(streams, tracks, strict=True):
            stream.layout = layout
            if language:
                stream.metadata["language"] = language
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
        for stream, (channels, layout, _) in zip(streams, tracks, strict=True):
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels.T.reshape(1, -1)), format="flt", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), 0
            target.mux([*stream.encode(frame), *stream.encode(None)])
    return path


def level(path, hz):
    """Amplitude of a tone in each channel of the output's sound."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], axis=1)[:, 4000:40000]
        time = np.arange(sound.shape[1]) / stream.rate
    return 2 / sound.shape[1] * np.abs(sound @ np.exp(-2j * np.pi * hz * time))


def mixed(video, original="keep", new=None):
    out = video.with_name(f"out{video.suffix}")
    mux(video, np.zeros(int(SECONDS * RATE), np.float32) if new is None else new, RATE, out, original)
    return out


@pytest.mark.parametrize("layout", ["mono", "stereo"])
def test_keep_leaves_levels_as_they_are(make_clip, tmp_path, layout):
    channels = np.stack([tone(440)] * (2 if layout == "stereo" else 1))
    video = with_tracks(make_clip("a.mp4", n_frames=25), tmp_path / "b.mkv", (channels, layout, ""))
    assert level(mixed(video), 440) == pytest.approx([0.25] * len(channels), rel=0.02)


@pytest.mark.parametrize(("channel", "left", "right"), [(0, 1, 0), (1, 0, 1), (2, 0.7071, 0.7071), (4, 0.7071, 0)])
def test_surround_is_mixed_down_by_the_usual_weights(make_clip, tmp_path, channel, left, right):
    """Front as it is, centre and surround 3 dB lower."""
    channels = np.zeros((6, 48000), np.float32)
    channels[channel] = tone(440)
    video = with_tracks(make_clip("a.mp4", n_frames=25), tmp_path / "b.mkv", (channels, "5.1(side)", ""))
    assert level(mixed(video), 440) == pytest.approx([0.25 * left, 0.25 * right], abs=0.005)
    assert OwnSound(video).notes == [f"{video}: its sound of 6 channels is mixed down to stereo."]


def test_tracks_of_one_language_are_heard_together(make_clip, tmp_path):
    tracks = ((tone(440)[None], "mono", ""), (np.stack([tone(1000)] * 2), "stereo", ""), (tone(3000)[None], "mono", "fra"))
    video = with_tracks(make_clip("a.mp4", n_frames=25), tmp_path / "b.mkv", *tracks)
    out = mixed(video)
    assert [level(out, hz)[0] for hz in (440, 1000, 3000)] == pytest.approx([0.25, 0.25, 0], abs=0.01)
    assert plan_mux(video, out.with_name("new.mkv"), "keep").notes == (
        f"{video}: 1 of its 3 audio tracks are in other languages and left out.",
    )


def rename_codec(path, number):
    """Let the codec of an audio track be one that FFmpeg does not know, as in clips of newer phones."""
    content, place = bytearray(path.read_bytes()), -1
    for _ in range(number + 1):
        place = content.index(b"mp4a", place + 1)
    content[place : place + 4] = b"apac"
    place = content.index(b"esds", place)
    content[place : place + 4] = b"dapa"
    path.write_bytes(content)


def test_tracks_of_unknown_codecs_are_left_out(make_clip):
    video = make_clip("a.mp4", n_frames=25, sound=tone(440)[None], sound_rate=48000)
    rename_codec(video, 0)
    assert plan_mux(video, video.with_name("out.mp4"), "keep").notes == (
        f"{video}: 1 of its 1 audio tracks have an unknown codec and are left out.",
    )
    mixed(video)
    with pytest.raises(MediaError, match="has no audio that can be decoded: the codec of its 1 audio tracks is unknown"):
        read_audio(video, RATE)


def test_floats_beyond_full_scale_are_not_clipped(make_clip, tmp_path):
    video = with_tracks(make_clip("a.mp4", n_frames=25), tmp_path / "b.mkv", (tone(440, 3.0)[None], "mono", ""))
    out = mixed(video)
    assert level(out, 440) == pytest.approx([1.0], rel=0.1)
    assert level(out, 3 * 440)[0] < 0.01
    assert np.abs(read_audio(video, 48000)).max() == pytest.approx(3.0, rel=0.01)


def test_duck_lowers_floats_beyond_full_scale_before_anything_clips(make_clip, tmp_path):
    """3 times full scale, 12 dB lower, is -2.5 dB."""
    video = with_tracks(make_clip("a.mp4", n_frames=25), tmp_path / "b.mkv", (tone(440, 3.0)[None], "mono", ""))
    out = mixed(video, "duck", 0.1 * tone(3000, 1.0, RATE))
    assert 20 * np.log10(level(out, 440)[0]) == pytest.approx(-2.5, abs=0.5)
    assert level(out, 3 * 440)[0] < 0.01


def test_duck_follows_the_new_sound(make_clip, tmp_path):
    """12 dB lower around the burst at 1.5 s, unchanged 1 s away from it."""
    video = with_tracks(make_clip("a.mp4", n_frames=75), tmp_path / "b.mkv", (tone(440, seconds=3)[None], "mono", ""))
    new = np.zeros(3 * RATE, np.float32)
    new[30870:35280] = 0.2 * np.sin(2 * np.pi * 3000 * np.arange(4410) / RATE)
    out = mixed(video, "duck", new)
    sound = read_audio(out, 48000)
    pieces = [sound[int(at * 48000) : int((at + 0.1) * 48000)] for at in (0.2, 1.45, 2.7)]
    time = np.arange(4800) / 48000
    levels = [2 / 4800 * abs(np.sum(piece * np.hanning(4800) * 2 * np.exp(-2j * np.pi * 440 * time))) for piece in pieces]
    assert levels == pytest.approx([0.25, 0.25 * 10 ** (-12 / 20), 0.25], rel=0.05)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_samples_that_are_not_finite_are_refused(make_clip, tmp_path, value):
    sound = tone(440)
    sound[24000:] = value
    video = with_tracks(make_clip("a.mp4", n_frames=25), tmp_path / "b.mkv", (sound[None], "mono", ""))
    with pytest.raises(MediaError, match=r"has samples that are NaN or infinite at 0\.\d+ s"):
        read_audio(video, RATE)
    with pytest.raises(MediaError, match="NaN or infinite"):
        mixed(video)
    assert not video.with_name("out.mkv").exists()


def test_what_follows_the_pictures_is_not_read(make_clip, tmp_path):
    """A hole of hours there would be an error after the new sound was made."""
    with av.open(str(make_clip("a.mkv"))) as source, av.open(str(tmp_path / "b.mkv"), "w") as target:
        copy, stream = target.add_stream_from_template(source.streams.video[0], opaque=True), target.add_stream("flac", rate=RATE)
        stream.layout = "mono"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
        for start in (0, 2 * 3600 * RATE):
            frame = av.AudioFrame.from_ndarray(np.full((1, 4096), 9000, np.int16), format="s16p", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), start
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    mux(tmp_path / "b.mkv", np.zeros(RATE // 2, np.float32), RATE, tmp_path / "out.mkv", "keep")
    assert np.abs(read_audio(tmp_path / "out.mkv", RATE)[1000:3000]).mean() == pytest.approx(9000 / 32768, rel=0.1)


@pytest.mark.parametrize("n_channels", [5, 64])
def test_channels_without_places_are_averaged(tmp_path, n_channels):
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.repeat(tone(440, rate=RATE)[:, None], n_channels, axis=1), RATE)
    assert np.abs(read_audio(tmp_path / "a.wav", RATE)).max() == pytest.approx(0.25, rel=0.02)


@pytest.mark.parametrize(("n_channels", "claimed"), [(1, 1), (1, 2**31 - 1), (5, 2**31 - 1)])
def test_a_sample_rate_that_no_recorder_has_is_named(tmp_path, n_channels, claimed):
    import soundfile

    soundfile.write(tmp_path / "a.wav", np.repeat(tone(440, rate=RATE)[:, None], n_channels, axis=1), RATE)
    content = bytearray((tmp_path / "a.wav").read_bytes())
    content[24:28] = claimed.to_bytes(4, "little")
    (tmp_path / "a.wav").write_bytes(content)
    with pytest.raises(MediaError, match=f"has a sample rate of {claimed} Hz in its header; it is damaged"):
        read_audio(tmp_path / "a.wav", RATE)
