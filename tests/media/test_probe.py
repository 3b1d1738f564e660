"""Probing: facts in every container, rates, rotation, damaged files, errors."""

import io
import struct
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from unsilent.errors import MediaError
from unsilent.media.files import Timeline, demux, find_video, open_media
from unsilent.media.probe import orientation, probe, read_comment


@pytest.mark.parametrize(
    ("name", "codec"),
    [("a.mp4", "libx264"), ("a.mov", "libx264"), ("a.mkv", "libx264"), ("a.ts", "libx264"), ("a.avi", "mpeg4"), ("a.webm", "libvpx-vp9")],
)
def test_probe_in_every_container(make_clip, name, codec):
    info = probe(make_clip(name, codec=codec, n_frames=31, fps=25, size=(96, 48)))
    assert (info.width, info.height, info.rotation, info.has_audio, info.n_video_frames) == (96, 48, 0, False, 31)
    assert info.seconds == pytest.approx(31 / 25, abs=0.002)
    assert info.fps == pytest.approx(25, rel=0.002)


@pytest.mark.parametrize("fps", [Fraction(30000, 1001), Fraction(43, 2), 60, 1])
def test_probe_measures_rate_and_duration(make_clip, fps):
    info = probe(make_clip("a.mp4", fps=fps, n_frames=12))
    assert info.fps == pytest.approx(float(fps), rel=1e-6)
    assert info.seconds == pytest.approx(12 / float(fps), rel=1e-6)


def test_duration_is_counted_from_the_first_time_stamp(make_clip):
    """Time stamps that start at 2 s do not lengthen a video."""
    for name in ("a.mp4", "a.mkv", "a.ts"):
        assert probe(make_clip(name, first=50)).seconds == pytest.approx(0.8, abs=0.002)


def test_pictures_of_more_pixels_than_fit_into_memory_are_refused(make_clip, monkeypatch):
    monkeypatch.setattr("unsilent.media.files.MAX_PIXELS", 64 * 48 - 1)
    with pytest.raises(MediaError, match=r"a\.mp4 has frames of 64 x 48 pixels, but up to 0 megapixels are possible; scale it down"):
        probe(make_clip("a.mp4"))


def test_a_frame_is_freed_once_its_orientation_is_known(make_clip):
    """References in a cycle would keep hundreds of frames until the next garbage collection."""
    with av.open(str(make_clip("a.mp4", rotation=90))) as container:
        frame = next(container.decode(video=0))
        before = sys.getrefcount(frame)
        assert orientation(frame).degrees == 270
        assert sys.getrefcount(frame) == before


def test_duration_of_a_variable_frame_rate(make_clip):
    info = probe(make_clip("a.mkv", times=[0, 40, 80, 500, 1000], time_base=Fraction(1, 1000)))
    assert info.n_video_frames == 5
    assert info.seconds == pytest.approx(1.04, abs=0.021)  # the duration of the last frame is unknown


def test_wrong_duration_in_the_header_is_ignored(make_clip):
    """A recorder that crashes leaves a wrong duration in the Matroska header."""
    path = make_clip("a.mkv")
    data = path.read_bytes()
    at = data.index(b"\x44\x89\x88") + 3
    path.write_bytes(data[:at] + struct.pack(">d", 3_600_000.0) + data[at + 8 :])
    with av.open(str(path)) as container:
        assert container.duration == 3_600_000_000
    assert probe(path).seconds == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize(("counter_clockwise", "clockwise"), [(0, 0), (90, 270), (180, 180), (270, 90)])
def test_probe_reports_clockwise_rotation_and_displayed_size(make_clip, counter_clockwise, clockwise):
    info = probe(make_clip("a.mp4", rotation=counter_clockwise, size=(96, 48)))
    assert info.rotation == clockwise
    assert (info.width, info.height) == ((48, 96) if clockwise % 180 else (96, 48))


@pytest.mark.parametrize(("exif", "swaps", "mirrors"), [(1, False, False), (2, False, True), (6, True, True)])
def test_frames_with_exif_are_turned_by_it(tmp_path, draw, exif, swaps, mirrors):
    """Cameras store it in each frame of Motion JPEG; PyAV 18 does not list this kind of side data."""
    about, content = Image.Exif(), io.BytesIO()
    about[0x0112] = exif  # orientation
    Image.fromarray(draw(5)).save(content, "JPEG", exif=about)
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(3):
            packet = av.Packet(content.getvalue())
            packet.pts, packet.time_base, packet.stream, packet.is_keyframe = number, Fraction(1, 25), stream, True
            container.mux(packet)
    info = probe(tmp_path / "a.mov")
    assert (info.n_video_frames, info.width, info.height) == (3, *((48, 64) if swaps else (64, 48)))
    with av.open(str(tmp_path / "a.mov")) as container:
        turned = orientation(next(container.decode(video=0)))
    assert (turned.swaps, turned.mirrors, turned.flips) == (swaps, mirrors, False)


def test_a_frame_that_lasts_beyond_the_next_does_not_lengthen_a_video(make_clip):
    path = make_clip("a.ts")
    with open_media(path) as container:
        stream = find_video(container, path)
        timeline = Timeline(stream)
        for number, packet in enumerate(demux(container, stream)):
            packet.duration = 250 * 90_000 if number == 9 else packet.duration
            timeline.add(packet)
    assert float((timeline.end - timeline.start) * timeline.time_base) == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts"])
def test_single_frame_has_a_duration(make_clip, name):
    info = probe(make_clip(name, n_frames=1))
    assert info.n_video_frames == 1
    assert 0 < info.seconds <= 0.1


def test_probe_reports_audio(make_clip):
    assert probe(make_clip("a.mp4", sound=np.zeros((1, 22050)))).has_audio


@pytest.mark.parametrize("name", ["a.mkv", "a.ts"])
def test_truncated_file_counts_as_far_as_it_can_be_read(make_clip, name):
    path = make_clip(name, n_frames=100)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    info = probe(path)
    assert 1.0 < info.seconds < 3.5
    assert info.n_video_frames == pytest.approx(info.seconds * 25, abs=4)


def test_comment_is_empty_by_default(make_clip):
    assert read_comment(make_clip("a.mp4")) == ""


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(MediaError, match=r"none\.mp4 does not exist"):
        probe(tmp_path / "none.mp4")


def test_folder_is_refused(tmp_path):
    with pytest.raises(MediaError, match="is a folder; name a file"):
        probe(tmp_path)


def test_empty_file_is_refused(tmp_path):
    (tmp_path / "a.mp4").touch()
    with pytest.raises(MediaError, match=r"a\.mp4 is empty \(0 bytes\)"):
        probe(tmp_path / "a.mp4")


@pytest.mark.parametrize("name", ["a.mp4", "a.txt", "a.mkv"])
def test_text_file_is_refused(tmp_path, name):
    (tmp_path / name).write_text("This is no video at all. " * 100)
    with pytest.raises(MediaError, match="is not a media file that FFmpeg can read"):
        probe(tmp_path / name)


def test_unreadable_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"x")

    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(MediaError, match=r"a\.mp4 cannot be opened: Permission denied"):
        probe(path)


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
def test_mp4_without_its_index_is_refused(make_clip, share):
    path = make_clip("a.mp4", n_frames=100)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(MediaError, match="truncated or damaged"):
        probe(path)


def test_audio_file_is_refused(tmp_path):
    write_tone(tmp_path / "a.wav", "pcm_s16le")
    with pytest.raises(MediaError, match=r"a\.wav has audio but no video"):
        probe(tmp_path / "a.wav")


def test_cover_art_is_not_a_video(tmp_path, draw):
    write_tone(tmp_path / "a.mp3", "libmp3lame", cover=draw(5))
    with av.open(str(tmp_path / "a.mp3")) as container:
        assert len(container.streams.video) == 1
    with pytest.raises(MediaError, match=r"a\.mp3 has audio but no video"):
        probe(tmp_path / "a.mp3")


def test_subtitles_file_is_refused(tmp_path):
    (tmp_path / "a.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nHello\n\n")
    with pytest.raises(MediaError, match=r"a\.srt has no video"):
        probe(tmp_path / "a.srt")


def test_video_that_cannot_be_decoded_is_refused(make_clip):
    path = make_clip("a.mp4")
    data = bytearray(path.read_bytes())
    start, end = data.index(b"mdat") + 4, data.index(b"moov") - 4
    data[start:end] = bytes(end - start)
    path.write_bytes(data)
    with pytest.raises(MediaError, match="has no frame that can be decoded"):
        probe(path)


def test_colon_in_the_name_is_not_a_url(make_clip, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    path = make_clip("take:1.mp4")
    assert probe(path.relative_to(tmp_path)).n_video_frames == 20


def write_tone(path, codec, cover=None):
    """A second of silence, optionally with cover art."""
    with av.open(str(path), "w") as container:
        audio = container.add_stream(codec, rate=22050)
        audio.layout = "mono"
        if cover is not None:
            image = container.add_stream("mjpeg", rate=1)
            image.width, image.height, image.pix_fmt = cover.shape[1], cover.shape[0], "yuvj420p"
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 22050), dtype=np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 22050, 0
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
        if cover is not None:
            container.mux(image.encode(av.VideoFrame.from_ndarray(cover, format="rgb24")))
            container.mux(image.encode(None))


def test_time_stamps_that_jump_by_a_day_are_refused(make_clip):
    """The clock of a transport stream wraps around after 26.5 hours."""
    times = [0, 40, 80, 120 + 95_443_717, 160 + 95_443_717]
    path = make_clip("wrapped.mkv", times=times, time_base=Fraction(1, 1000))
    with pytest.raises(MediaError, match=r"wrapped\.mkv has a gap of 26\.5 hours between two frames: its time stamps are damaged"):
        probe(path)


def test_gap_of_ten_minutes_between_frames_is_accepted(make_clip):
    path = make_clip("slow.mkv", times=[0, 40, 600_000], time_base=Fraction(1, 1000))
    assert probe(path).seconds == pytest.approx(600, abs=0.1)
