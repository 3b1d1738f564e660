"""What becomes of pictures, metadata and other streams in another container."""

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from unsilent.errors import MediaError
from unsilent.media.boxes import sample_formats
from unsilent.media.copying import plan_copy
from unsilent.media.mux import mux, plan_mux
from unsilent.media.probe import probe
from unsilent.media.video import stream_frames

RATE = 22050
SILENCE = np.zeros(RATE, np.float32)


def pictures(path):
    """Times since the first picture, and pictures as 16-bit RGB."""
    with av.open(str(path)) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgb48le")) for frame in container.decode(container.streams.best("video"))]
    return [round(time - frames[0][0], 3) for time, _ in frames], [picture for _, picture in frames]


def assert_same_pictures(one, other):
    (times, old), (same, new) = pictures(one), pictures(other)
    assert times == same
    assert all(np.array_equal(a, b) for a, b in zip(old, new, strict=True))


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "size"),
    [
        ("a.wmv", "wmv2", "yuv420p", (64, 48)),
        ("a.3gp", "h263", "yuv420p", (128, 96)),
        ("a.flv", "flv", "yuv420p", (64, 48)),
        ("a.avi", "huffyuv", "yuv422p", (64, 48)),
        ("a.avi", "utvideo", "yuv420p", (64, 48)),
        ("a.mkv", "rawvideo", "yuv420p", (64, 48)),
        ("a.avi", "mpeg4", "yuv420p", (64, 48)),
        ("a.mkv", "prores_ks", "yuv422p10le", (64, 48)),
    ],
)
def test_matroska_holds_copies_of_most_codecs(make_clip, tmp_path, name, codec, pix_fmt, size):
    video = make_clip(name, codec=codec, pix_fmt=pix_fmt, size=size)
    assert mux(video, SILENCE, RATE, tmp_path / "out.mkv").pictures == "copied"
    assert_same_pictures(video, tmp_path / "out.mkv")
    with av.open(str(video)) as old, av.open(str(tmp_path / "out.mkv")) as new:
        assert old.streams.video[0].codec_context.name == new.streams.video[0].codec_context.name == codec.removesuffix("_ks")


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "out", "how"),
    [
        ("a.gif", "gif", "rgb8", "out.mkv", "lossless FFV1"),
        ("a.avi", "rawvideo", "bgr24", "out.mkv", "lossless FFV1"),
        ("a.wmv", "wmv2", "yuv420p", "out.mp4", "lossless H.264"),
        ("a.mp4", "libx264", "yuv420p", "out.webm", "lossless VP9"),
        ("a.webm", "libvpx", "yuv420p", "out.mov", "lossless H.264"),
    ],
)
def test_what_a_container_cannot_hold_is_encoded_without_loss(make_clip, tmp_path, name, codec, pix_fmt, out, how):
    video = make_clip(name, codec=codec, pix_fmt=pix_fmt)
    plan = plan_mux(video, tmp_path / out)
    assert plan.pictures == f"encoded as {how}"
    assert plan.notes == (f"{video}: the frames are encoded as {how}, because {(tmp_path / out).suffix} cannot hold {plan_name(video)}.",)
    mux(video, SILENCE, RATE, tmp_path / out, plan=plan)
    assert_same_pictures(video, tmp_path / out)


@pytest.mark.parametrize(
    ("pix_fmt", "out", "how"),
    [
        ("yuv420p", "out.mov", "copied"),
        ("yuyv422", "out.mov", "copied"),
        ("gray", "out.mov", "encoded as lossless H.264"),
        ("gray", "out.webm", "encoded as VP9 (CRF 12)"),
    ],
)
def test_raw_pictures_keep_their_brightness(make_clip, tmp_path, pix_fmt, out, how):
    """QuickTime would invert grey that is copied, and a conversion to luma would narrow its range."""
    video = make_clip("a.mkv", codec="rawvideo", pix_fmt=pix_fmt)
    assert mux(video, SILENCE, RATE, tmp_path / out).pictures == how
    shown = []
    for path in (video, tmp_path / out):
        with av.open(str(path)) as container:
            shown.append(np.stack([frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]))
    assert np.abs(shown[0] - shown[1]).mean() < 1.5


def plan_name(path):
    with av.open(str(path)) as container:
        return container.streams.video[0].codec_context.name


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "rate", "options"),
    [
        ("a.h264", "libx264", "yuv420p", 30, {"bf": "3", "g": "30"}),
        ("a.hevc", "libx265", "yuv420p", Fraction(24000, 1001), {"x265-params": "log-level=error:bframes=3"}),
        ("a.m1v", "mpeg1video", "yuv420p", 25, {"bf": "2"}),
        ("a.m2v", "mpeg2video", "yuv420p", 30, {"bf": "2"}),
        ("a.mjpeg", "mjpeg", "yuvj420p", 25, {}),
    ],
)
def test_frames_of_raw_streams_are_displayed_in_order_at_their_rate(make_clip, read_number, tmp_path, name, codec, pix_fmt, rate, options):
    size = (320, 240)
    video = make_clip(name, codec=codec, pix_fmt=pix_fmt, fps=rate, size=size, options=options)
    expected = [round(number / Fraction(rate), 3) for number in range(20)]
    for suffix in (".mp4", ".mkv"):
        plan = mux(video, SILENCE, RATE, tmp_path / f"out{suffix}")
        assert plan.pictures == "copied"
        assert plan.notes == (f"{video}: the raw stream has no time stamps, so {float(rate):.5g} frames a second were assumed.",)
        times, images = pictures(tmp_path / f"out{suffix}")
        assert times == pytest.approx(expected, abs=2e-3)  # Matroska stores milliseconds
        assert [read_number((image >> 8).astype(np.uint8)) for image in images] == list(range(20))
        assert probe(tmp_path / f"out{suffix}").seconds == pytest.approx(20 / rate, abs=2e-3)
    assert [read_number(image) for _, image in stream_frames(video, float(rate))] == list(range(20))


def test_a_raw_stream_that_begins_between_key_frames_is_written(make_clip, read_number, tmp_path):
    video = make_clip("a.h264", n_frames=40, size=(320, 240), options={"bf": "2", "g": "12"})
    content = video.read_bytes()
    video.write_bytes(content[content.index(b"\0\0\1\x41") :] if b"\0\0\1\x41" in content else content[len(content) // 4 :])
    mux(video, SILENCE, RATE, tmp_path / "out.mp4")
    numbers = [read_number((image >> 8).astype(np.uint8)) for image in pictures(tmp_path / "out.mp4")[1]]
    assert numbers == sorted(numbers)
    assert numbers[-1] == 39


def test_frames_without_time_stamps_are_encoded(make_clip, read_number, tmp_path):
    """Matroska cannot store times before 0, so FFmpeg reads none."""
    options = {"avoid_negative_ts": "disabled"}
    video = make_clip("a.mkv", options={"bf": "0"})
    with av.open(str(video)) as source, av.open(str(tmp_path / "early.mkv"), "w", options=options) as target:
        copy = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.pts, packet.dts, packet.stream = packet.pts - 200, packet.dts - 200, copy
                target.mux(packet)
    plan = mux(tmp_path / "early.mkv", SILENCE, RATE, tmp_path / "out.mkv")
    assert plan.notes[0].endswith("encoded as lossless FFV1, because the first ones have no time stamps.")
    assert [read_number((image >> 8).astype(np.uint8)) for image in pictures(tmp_path / "out.mkv")[1]] == list(range(20))


def test_encoded_pictures_have_the_size_of_the_first_frame(make_clip, tmp_path):
    """Not that of a damaged header, for which an encoder may take gigabytes."""
    video = make_clip("a.mpg", codec="mpeg2video", options={"g": "5"})
    video.write_bytes(video.read_bytes().replace(b"\0\0\1\xb3\x04\0\x30", b"\0\0\1\xb3\xfa\x0f\xa0", 1))  # 4000 x 4000 pixels
    mux(video, SILENCE, RATE, tmp_path / "out.webm")
    assert pictures(tmp_path / "out.webm")[1][0].shape == (48, 64, 3)


def test_raw_pictures_may_have_an_unknown_format(make_clip, tmp_path):
    video = make_clip("a.mkv", codec="rawvideo", pix_fmt="gray")
    video.write_bytes(video.read_bytes().replace(b"Y800", b"\xff\xff\xff\xff"))
    assert plan_mux(video, tmp_path / "out.mov").pictures == "copied"
    with pytest.raises(MediaError, match="has no frame that can be decoded"):
        probe(video)


def animated(path, format="WEBP"):
    """Ten pictures of 0.1 s with a growing bar and a hole; they are also returned, as RGBA."""
    pictures = []
    for number in range(10):
        picture = np.zeros((48, 64, 4), np.uint8)
        picture[..., 3] = 255
        picture[:, : 6 * number + 4, :3] = 200, 30, 60
        picture[10:20, 10:20] = 0 if number % 2 else (0, 0, 250, 255)
        pictures.append(picture)
    images = [Image.fromarray(picture) for picture in pictures]
    images[0].save(path, format=format, save_all=True, append_images=images[1:], duration=100, lossless=True)
    return pictures


def test_animated_webp_becomes_a_video(tmp_path):
    pictures = animated(tmp_path / "a.webp")
    assert (probe(tmp_path / "a.webp").seconds, probe(tmp_path / "a.webp").n_video_frames) == (1.0, 10)
    assert mux(tmp_path / "a.webp", SILENCE, RATE, tmp_path / "out.mkv").pictures == "encoded as lossless FFV1"
    with av.open(str(tmp_path / "out.mkv")) as container:
        frames = [(frame.time, frame.to_ndarray(format="rgba")) for frame in container.decode(video=0)]
    assert [round(time, 2) for time, _ in frames] == [round(0.1 * number, 2) for number in range(10)]
    assert all(np.array_equal(made, picture) for (_, made), picture in zip(frames, pictures, strict=True))


def test_still_and_damaged_webp_are_named(tmp_path):
    Image.new("RGB", (64, 48)).save(tmp_path / "still.webp")
    with pytest.raises(MediaError, match=r"still\.webp is an image; give a video"):
        probe(tmp_path / "still.webp")
    animated(tmp_path / "a.webp")
    content = (tmp_path / "a.webp").read_bytes()
    (tmp_path / "a.webp").write_bytes(content[:200])
    with pytest.raises(MediaError, match=r"a\.webp is a damaged animated WebP"):
        probe(tmp_path / "a.webp")


@pytest.mark.parametrize("out", ["out.mp4", "out.webm"])
def test_pictures_without_luma_keep_their_colours(tmp_path, out):
    """Encoded as luma and chroma, they must not be tagged as RGB, nor shown as such."""
    pictures = animated(tmp_path / "a.png", "PNG")
    (tmp_path / "a.png").rename(tmp_path / "a.apng")
    mux(tmp_path / "a.apng", SILENCE, RATE, tmp_path / out)
    with av.open(str(tmp_path / out)) as container:
        for frame, picture in zip(container.decode(video=0), pictures, strict=True):
            assert (int(frame.colorspace), int(frame.color_range)) == (6, 1)
            made = frame.to_ndarray(format="rgb24").astype(int)
            assert np.abs(made[30:, :2] - picture[30:, :2, :3]).max() < 12


def test_encoded_pictures_are_turned_as_displayed(make_clip, read_number, tmp_path):
    for rotation, mirrored in ((90, False), (180, False), (270, False), (0, True)):
        video = make_clip("a.mp4", rotation=rotation, mirrored=mirrored)
        mux(video, SILENCE, RATE, tmp_path / "out.webm")
        for (_, old), (_, new) in zip(stream_frames(video, 25), stream_frames(tmp_path / "out.webm", 25), strict=True):
            assert np.abs(old.astype(int) - new).mean() < 3  # chroma is interpolated in another direction


def hide_end(path, milliseconds):
    """Shorten the edit list of the first track to so many milliseconds, as phones trim clips."""
    content = bytearray(path.read_bytes())
    place = content.index(b"elst")
    content[place + 12 : place + 16] = milliseconds.to_bytes(4)
    path.write_bytes(content)


@pytest.mark.parametrize("n_b_frames", [0, 3])
@pytest.mark.parametrize(("name", "out"), [("a.mp4", "out.mp4"), ("a.mov", "out.mov"), ("a.mp4", "out.mkv"), ("a.mov", "out.webm")])
def test_a_trimmed_end_stays_hidden(make_clip, read_number, tmp_path, name, out, n_b_frames):
    video = make_clip(name, n_frames=50, options={"bf": str(n_b_frames)})
    hide_end(video, 1000)
    assert probe(video).seconds == 1.0
    mux(video, SILENCE, RATE, tmp_path / out)
    assert [read_number(frame) for _, frame in stream_frames(tmp_path / out, 25)] == list(range(25))
    assert_same_pictures(video, tmp_path / out)
    with av.open(str(tmp_path / out)) as container:
        n_packets = sum(bool(packet.size) for packet in container.demux(video=0))
    assert n_packets <= 25 + (3 if n_b_frames else 0), "the hidden pictures are not even in the file"


def show_only(path, *parts):
    """Let the edit list of the first track show parts, each a start and a duration in milliseconds, one after another."""
    content = bytearray(path.read_bytes())
    scale, rate = (int.from_bytes(content[content.index(kind) + 16 :][:4]) for kind in (b"mvhd", b"mdhd"))
    start = content.index(b"elst") - 4
    end, first = start + int.from_bytes(content[start : start + 4]), int.from_bytes(content[start + 20 : start + 24])
    entries = [((length * scale // 1000), first + begin * rate // 1000, 0x10000) for begin, length in parts]
    new = struct.pack(">I4sII", 16 + 12 * len(parts), b"elst", 0, len(parts)) + b"".join(struct.pack(">IiI", *one) for one in entries)
    for kind in (b"moov", b"trak", b"edts"):
        place = content.rindex(kind, 0, start + 4) - 4
        content[place : place + 4] = (int.from_bytes(content[place : place + 4]) + len(new) - (end - start)).to_bytes(4)
    path.write_bytes(content[:start] + new + content[end:])


@pytest.mark.parametrize("n_b_frames", [0, 2])
@pytest.mark.parametrize("out", ["out.mp4", "out.mkv"])
def test_parts_of_an_edit_list_follow_each_other(make_clip, read_number, tmp_path, out, n_b_frames):
    video = make_clip("a.mp4", n_frames=100, options={"bf": str(n_b_frames), "g": "25"})
    show_only(video, (0, 1000), (2000, 1000))
    assert (probe(video).seconds, probe(video).n_video_frames) == (2.0, 50)
    mux(video, SILENCE, RATE, tmp_path / out)
    assert [read_number(frame) for _, frame in stream_frames(tmp_path / out, 25)] == [*range(25), *range(50, 75)]
    assert_same_pictures(video, tmp_path / out)


def with_shape(plain, path, shape):
    """A copy of a video whose container alone says the shape of its pixels, and the title of its track."""
    with av.open(str(plain)) as source, av.open(str(path), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
        copy.codec_context.sample_aspect_ratio = shape
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    return path


@pytest.mark.parametrize(
    ("name", "codec", "out"), [("a.mp4", "libx264", "out.mp4"), ("a.mov", "prores_ks", "out.mov"), ("a.mp4", "libx264", "out.mkv")]
)
def test_the_shape_of_pixels_is_kept(make_clip, tmp_path, name, codec, out):
    """In the container, where the codec does not say it."""
    plain = make_clip("b" + name[1:], codec=codec, pix_fmt="yuv422p10le" if codec == "prores_ks" else "yuv420p")
    video = with_shape(plain, tmp_path / name, Fraction(4, 3))
    mux(video, SILENCE, RATE, tmp_path / out)
    mux(tmp_path / out, SILENCE, RATE, tmp_path / f"again{out[3:]}")
    for written in (out, f"again{out[3:]}"):
        with av.open(str(tmp_path / written)) as container:
            assert container.streams.video[0].sample_aspect_ratio == Fraction(4, 3)
        assert_same_pictures(video, tmp_path / written)


def test_encoded_pictures_keep_their_shape(make_clip, tmp_path):
    """WebM counts in whole pixels."""
    mux(with_shape(make_clip("b.mp4"), tmp_path / "a.mp4", Fraction(4, 3)), SILENCE, RATE, tmp_path / "out.webm")
    with av.open(str(tmp_path / "out.webm")) as container:
        assert container.streams.video[0].sample_aspect_ratio == pytest.approx(Fraction(4, 3), abs=0.01)


@pytest.mark.parametrize(
    ("profile", "tag", "pix_fmt"), [("0", "apco", "yuv422p10le"), ("3", "apch", "yuv422p10le"), ("4", "ap4h", "yuva444p10le")]
)
def test_profiles_of_prores_are_kept(make_clip, tmp_path, profile, tag, pix_fmt):
    video = make_clip("a.mov", codec="prores_ks", pix_fmt=pix_fmt, options={"profile": profile})
    mux(video, SILENCE, RATE, tmp_path / "out.mov")
    mux(video, SILENCE, RATE, tmp_path / "out.mkv")
    mux(tmp_path / "out.mkv", SILENCE, RATE, tmp_path / "again.mov")
    for out in ("out.mov", "again.mov"):
        assert sample_formats(tmp_path / out)[1] == tag
        assert_same_pictures(video, tmp_path / out)


def test_tracks_of_matroska_keep_their_names_and_checksums(make_clip, tmp_path):
    """Where the tracks are written anew."""
    video = with_shape(make_clip("b.mp4"), tmp_path / "a.mp4", Fraction(4, 3))
    with av.open(str(video)) as source, av.open(str(tmp_path / "named.mkv"), "w") as target:
        copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
        copy.metadata["title"] = "Kamera 1"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    old = make_clip("c.wmv", codec="wmv2")
    for one, out in ((with_shape(tmp_path / "named.mkv", tmp_path / "n.mp4", Fraction(4, 3)), "out.mkv"), (old, "old.mkv")):
        mux(one, SILENCE, RATE, tmp_path / out)
        content = (tmp_path / out).read_bytes()
        start = content.index(b"\x16\x54\xae\x6b", 0x100)
        length = 9 - content[start + 4].bit_length()
        size = int.from_bytes(content[start + 4 : start + 4 + length]) & ((1 << 7 * length) - 1)
        tracks = content[start + 4 + length :][:size]
        assert tracks[:2] == b"\xbf\x84"
        assert int.from_bytes(tracks[2:6], "little") == zlib.crc32(tracks[6:])
        assert b"unsilentunsilent" not in content


def rich(tmp_path, make_clip, name):
    """A clip with chapters, a title and the tags of a phone, by a template of a plain one."""
    with av.open(str(make_clip("plain.mp4"))) as source, av.open(str(tmp_path / name), "w", container_options=TAGS.get(name, {})) as target:
        copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
        target.metadata.update({"title": "Trip", "com.apple.quicktime.make": "Maker", "com.apple.quicktime.location.ISO6709": "+10+020/"})
        base = Fraction(1, 1000)
        target.set_chapters(
            [{"id": i, "start": 400 * i, "end": 400 * i + 400, "time_base": base, "metadata": {"title": str(i)}} for i in (0, 1)]
        )
        if name.endswith(".mkv"):
            target.add_attachment("font.ttf", "application/x-truetype-font", bytes(100))
        if name.endswith(".mov"):
            copy.metadata["timecode"] = "01:02:03:04"
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    return tmp_path / name


TAGS = {"a.mov": {"movflags": "use_metadata_tags"}, "a.mp4": {"movflags": "use_metadata_tags"}}


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.mkv"])
def test_chapters_tags_timecode_and_fonts_are_kept(make_clip, tmp_path, name):
    video, out = rich(tmp_path, make_clip, name), tmp_path / f"out{name[1:]}"
    assert mux(video, SILENCE, RATE, out, comment="made").notes == ()
    with av.open(str(out)) as container:
        found = {key.lower(): value for key, value in container.metadata.items()}
        assert [one["metadata"]["title"] for one in container.chapters()] == ["0", "1"]
        assert (found["title"], found["comment"], found["com.apple.quicktime.make"]) == ("Trip", "made", "Maker")
        assert [stream.data for stream in container.streams.attachments] == ([bytes(100)] if name == "a.mkv" else [])
        if name == "a.mov":
            assert container.streams.video[0].metadata["timecode"] == "01:02:03:04"


def test_what_is_lost_is_said_beforehand(make_clip, tmp_path):
    video = rich(tmp_path, make_clip, "a.mkv")
    assert plan_copy(video, tmp_path / "out.mp4").notes == (
        f"{video}: left out attachment (font.ttf), which .mp4 cannot hold; .mkv holds more.",
    )


@pytest.mark.parametrize("out", ["out.mp4", "out.mkv"])
def test_a_cover_is_kept(make_clip, tmp_path, out):
    picture = io.BytesIO()
    with av.open(picture, "w", format="mjpeg") as target:
        stream = target.add_stream("mjpeg", rate=1)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p"
        target.mux([*stream.encode(av.VideoFrame(32, 32, "yuvj420p")), *stream.encode(None)])
    picture.seek(0)
    with (
        av.open(str(make_clip("plain.mp4"))) as source,
        av.open(picture, format="mjpeg") as image,
        av.open(str(tmp_path / "a.mp4"), "w") as target,
    ):
        copies = [target.add_stream_from_template(one.streams.video[0], opaque=True) for one in (source, image)]
        copies[1].disposition = av.stream.Disposition.attached_pic
        for one, copy in zip((image, source), copies[::-1], strict=True):
            for packet in one.demux(video=0):
                if packet.size:
                    packet.stream = copy
                    packet.pts, packet.dts = (0, 0) if one is image else (packet.pts, packet.dts)
                    target.mux(packet)
    mux(tmp_path / "a.mp4", SILENCE, RATE, tmp_path / out)
    with av.open(str(tmp_path / out)) as container:
        covers = [one for one in container.streams.video if one.disposition & av.stream.Disposition.attached_pic]
        assert [one.codec_context.width for one in covers] == [32]
    assert len(pictures(tmp_path / out)[0]) == 20


@pytest.mark.parametrize("out", ["out.mp4", "out.mkv"])
def test_a_track_of_an_unknown_codec_is_left_out(make_clip, tmp_path, out):
    """Such as the depth that phones film beside the picture."""
    with av.open(str(make_clip("plain.mp4"))) as source, av.open(str(tmp_path / "a.mp4"), "w") as target:
        copies = [target.add_stream_from_template(source.streams.video[0], opaque=True) for _ in range(2)]
        for packet in source.demux(video=0):
            for copy in copies if packet.size else ():
                again = av.Packet(bytes(packet))
                again.pts, again.dts, again.time_base, again.stream = packet.pts, packet.dts, packet.time_base, copy
                again.is_keyframe = packet.is_keyframe
                target.mux(again)
    content = (tmp_path / "a.mp4").read_bytes()
    place = content.rindex(b"avc1")
    (tmp_path / "a.mp4").write_bytes(content[:place] + content[place:].replace(b"avc1", b"dpth", 1).replace(b"avcC", b"dptC", 1))
    notes = plan_copy(tmp_path / "a.mp4", tmp_path / out).notes
    assert len(notes) == 1
    assert "left out a video track of an unknown codec, which" in notes[0]
    mux(tmp_path / "a.mp4", SILENCE, RATE, tmp_path / out)
    assert_same_pictures(tmp_path / "a.mp4", tmp_path / out)


def test_transparency_is_kept(make_clip, tmp_path):
    with (
        av.open(str(make_clip("b.webm", codec="libvpx-vp9", pix_fmt="yuva420p"))) as source,
        av.open(str(tmp_path / "a.webm"), "w") as target,
    ):
        copy = target.add_stream_from_template(source.streams.video[0], opaque=True)
        copy.codec_context.pix_fmt = "yuva420p"  # else the muxer does not set the flag
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                target.mux(packet)
    mux(tmp_path / "a.webm", SILENCE, RATE, tmp_path / "out.webm")
    with av.open(str(tmp_path / "out.webm")) as container:
        assert container.streams.video[0].metadata["alpha_mode"] == "1"


def test_boxes_of_pictures_are_carried(make_clip, tmp_path):
    """Such as those of Dolby Vision, which FFmpeg does not write into QuickTime files."""
    video = make_clip("a.mov")
    content = bytearray(video.read_bytes())
    entry, new = content.index(b"avc1", content.index(b"stsd")) - 4, (16).to_bytes(4) + b"hvcE" + b"8 bytes!"
    end = entry + int.from_bytes(content[entry : entry + 4])
    path = [content.rindex(kind, 0, entry + 8) - 4 for kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stsd")]
    for start in (*path, entry):
        content[start : start + 4] = (int.from_bytes(content[start : start + 4]) + len(new)).to_bytes(4)
    video.write_bytes(content[:end] + new + content[end:])
    mux(video, SILENCE, RATE, tmp_path / "out.mov")
    assert new in (tmp_path / "out.mov").read_bytes()
    assert_same_pictures(video, tmp_path / "out.mov")


def test_unknown_matrices_of_colours_are_read(make_clip, tmp_path):
    """YCgCo in the header of an H.264 stream, which FFmpeg's scaler refuses."""
    video = make_clip("a.mp4", options={"colormatrix": "YCgCo"})
    assert len(list(stream_frames(video, 25))) == 20
    mux(video, SILENCE, RATE, tmp_path / "out.webm")


def test_a_container_without_any_way_is_named(make_clip, tmp_path, monkeypatch):
    monkeypatch.setattr("unsilent.media.copying._works", lambda plan, video: False)
    with pytest.raises(MediaError, match=r"out\.mp4 cannot hold the video stream of .*a\.mp4 \(h264\); write \.mkv"):
        plan_copy(make_clip("a.mp4"), tmp_path / "out.mp4")
