"""Time stamps of joined and interrupted recordings, and of damaged ones."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest

from unsilent.errors import MediaError
from unsilent.media.audio import read_audio
from unsilent.media.mux import mux
from unsilent.media.probe import probe
from unsilent.media.video import stream_frames

RATE = 22050


def tone(hz, seconds=1.0, rate=48000):
    return 0.2 * np.sin(2 * np.pi * hz * np.arange(int(seconds * rate)) / rate)[None]


def loudest_hz(waveform):
    return np.abs(np.fft.rfft(waveform * np.hanning(len(waveform)))).argmax() * RATE / len(waveform)


@pytest.mark.parametrize(("suffix", "codec", "sound_codec"), [(".ts", "libx264", "aac"), (".mpg", "mpeg2video", "mp2")])
def test_joined_recordings_are_one(make_clip, read_number, tmp_path, suffix, codec, sound_codec):
    """The clock of the second part starts over."""
    common = {"n_frames": 25, "codec": codec, "sound_rate": 48000, "sound_codec": sound_codec}
    parts = [make_clip(f"{hz}{suffix}", sound=tone(hz), **common).read_bytes() for hz in (440, 880)]
    video = tmp_path / f"joined{suffix}"
    video.write_bytes(b"".join(parts))
    info = probe(video)
    assert (info.seconds, info.n_video_frames) == (2.0, 50)
    assert [read_number(frame) for _, frame in stream_frames(video, 25)] == [*range(25)] * 2
    sound = read_audio(video, RATE)
    assert [loudest_hz(sound[int(at * RATE) : int((at + 0.5) * RATE)]) for at in (0.25, 1.25)] == pytest.approx([440, 880], abs=4)
    mux(video, np.zeros(2 * RATE, np.float32), RATE, tmp_path / "out.mkv", "keep")
    with av.open(str(tmp_path / "out.mkv")) as container:
        times = [round(frame.time, 2) for frame in container.decode(video=0)]
    assert times == [round(number / 25, 2) for number in range(50)]
    assert loudest_hz(read_audio(tmp_path / "out.mkv", RATE)[int(1.25 * RATE) : int(1.75 * RATE)]) == pytest.approx(880, abs=4)


@pytest.mark.parametrize(("suffix", "codec"), [("oga", "flac"), ("opus", "libopus")])
def test_chained_ogg_is_read_to_its_end(tmp_path, suffix, codec):
    content = b""
    for hz in (440, 880):
        with av.open(str(tmp_path / f"{hz}.{suffix}"), "w") as target:
            stream = target.add_stream(codec, rate=48000)
            stream.layout = "mono"
            frame = av.AudioFrame.from_ndarray((tone(hz) * 32767).astype(np.int16), format="s16", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = 48000, Fraction(1, 48000), 0
            target.mux([*stream.encode(frame), *stream.encode(None)])
        content += (tmp_path / f"{hz}.{suffix}").read_bytes()
    (tmp_path / f"both.{suffix}").write_bytes(content)
    sound = read_audio(tmp_path / f"both.{suffix}", RATE)
    assert len(sound) / RATE == pytest.approx(2.0, abs=0.05)
    assert [loudest_hz(sound[int(at * RATE) : int((at + 0.5) * RATE)]) for at in (0.25, 1.25)] == pytest.approx([440, 880], abs=4)


def test_recordings_in_a_chain_may_have_other_rates(tmp_path):
    """As of a web radio; FFmpeg ends without an error where the rate changes."""
    content = b""
    for hz, rate in ((440, 44100), (880, 48000), (1760, 32000)):
        with av.open(str(tmp_path / "one.ogg"), "w") as target:
            stream = target.add_stream("vorbis", rate=rate, options={"strict": "experimental"})
            stream.layout = "stereo"
            frame = av.AudioFrame.from_ndarray(tone(hz, rate=rate).repeat(2, axis=0).astype(np.float32), format="fltp", layout="stereo")
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
            target.mux([*stream.encode(frame), *stream.encode(None)])
        content += (tmp_path / "one.ogg").read_bytes()
    (tmp_path / "all.ogg").write_bytes(content)
    sound = read_audio(tmp_path / "all.ogg", RATE)
    assert len(sound) / RATE == pytest.approx(3.0, abs=0.1)
    found = [loudest_hz(sound[int(at * RATE) : int((at + 0.5) * RATE)]) for at in (0.25, 1.25, 2.25)]
    assert found == pytest.approx([440, 880, 1760], abs=4)
    (tmp_path / "cut.ogg").write_bytes(content[: len(content) * 8 // 10])
    assert 2.0 < len(read_audio(tmp_path / "cut.ogg", RATE)) / RATE < 3.0


def test_a_jump_in_a_broadcast_is_closed(make_clip, tmp_path):
    """Part of the packets is an hour later, in a format whose clock may jump."""
    later = make_clip("b.ts", first=90_000, n_frames=25).read_bytes()
    (tmp_path / "a.ts").write_bytes(make_clip("c.ts", n_frames=25).read_bytes() + later)
    assert probe(tmp_path / "a.ts").seconds == 2.0


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([0, 40, 40 * 10**6], "has a gap of 11.1 hours between two frames"),
        (list(range(0, 9 * 3_500_000, 3_500_000)), "has 9 frames in 7.8 hours"),
    ],
)
def test_implausible_times_are_refused(make_clip, times, message):
    video = make_clip("a.mkv", times=times, time_base=Fraction(1, 1000), options={"bf": "0"})
    with pytest.raises(MediaError, match=message):
        probe(video)


def test_slides_may_last_long(make_clip):
    assert probe(make_clip("a.mkv", times=[0, 900_000, 1_800_000], time_base=Fraction(1, 1000))).seconds > 1800


def test_sounds_with_holes_of_hours_are_refused(tmp_path):
    """They would be filled with silence in memory."""
    with av.open(str(tmp_path / "a.mka"), "w") as target:
        stream = target.add_stream("flac", rate=RATE)
        stream.layout = "mono"
        for start in (0, 2 * 3600 * RATE):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.int16), format="s16p", layout="mono")
            frame.sample_rate, frame.time_base, frame.pts = RATE, Fraction(1, RATE), start
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    with pytest.raises(MediaError, match=r"time stamps with 2\.0 hours of gaps"):
        read_audio(tmp_path / "a.mka", RATE)


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile other.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nother.mp4\n",
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n",
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>other.mp4</BaseURL></Period></MPD>',
    ],
    ids=["concat", "hls", "sdp", "dash"],
)
def test_playlists_are_no_videos(make_clip, tmp_path, text):
    make_clip("other.mp4")
    (tmp_path / "a.mp4").write_text(text)
    with pytest.raises(MediaError, match="is not a media file"):
        probe(tmp_path / "a.mp4")


def test_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(MediaError, match="is a pipe; save it to a file first"):
        probe(tmp_path / "a.mp4")
