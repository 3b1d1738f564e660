"""Muxing: unchanged video packets, aligned audio, the video's own audio, containers, errors, atomic writes."""

import os
import threading
from fractions import Fraction

import av
import numpy as np
import pytest

from unsilent.errors import MediaError, ParameterError
from unsilent.media import mux as mux_module
from unsilent.media.audio import read_audio
from unsilent.media.mux import check_mux_arguments, mux
from unsilent.media.probe import probe, read_comment
from unsilent.media.video import stream_frames

RATE = 22050
AAC_PACKET = 1024  # samples
OPUS_PACKET = 441  # samples in 20 ms at RATE


def packets(path, kind="video"):
    """Data, time stamps in seconds, durations and key frame flags of a track."""
    with av.open(str(path)) as container:
        return [
            (bytes(p), p.pts * p.time_base, p.dts * p.time_base, p.duration * p.time_base, p.is_keyframe)
            for p in container.demux(**{kind: 0})
            if p.size
        ]


@pytest.mark.parametrize("suffix", [".mp4", ".m4v", ".mov"])
@pytest.mark.parametrize("options", [{}, {"bf": "0"}, {"bf": "3", "b-pyramid": "normal"}])
def test_mux_copies_video_packets_unchanged(make_clip, clicks, tmp_path, suffix, options):
    video, out = make_clip("a.mp4", n_frames=30, options=options), tmp_path / f"out{suffix}"
    mux(video, clicks(26460, 5000), RATE, out)
    assert packets(out) == packets(video)
    assert all(
        np.array_equal(old, new) and seconds == same
        for (seconds, old), (same, new) in zip(stream_frames(video, 25), stream_frames(out, 25), strict=True)
    )


@pytest.mark.parametrize(
    ("source", "codec", "suffix"),
    [("a.mkv", "libx264", ".mkv"), ("a.mp4", "libx264", ".mkv"), ("a.mkv", "libx264", ".mp4"), ("a.webm", "libvpx-vp9", ".webm")],
)
def test_mux_copies_video_packets_between_containers(make_clip, clicks, tmp_path, source, codec, suffix):
    """Matroska rounds time stamps to milliseconds."""
    video, out = make_clip(source, codec=codec, n_frames=30, fps=Fraction(30000, 1001)), tmp_path / f"out{suffix}"
    mux(video, clicks(22000, 5000), RATE, out)
    with av.open(str(video)) as old, av.open(str(out)) as new:
        before = [(bytes(p), float(p.pts * p.time_base), p.is_keyframe) for p in old.demux(video=0) if p.size]
        after = [(bytes(p), float(p.pts * p.time_base), p.is_keyframe) for p in new.demux(video=0) if p.size]
    assert [(data, key) for data, _, key in before] == [(data, key) for data, _, key in after]
    assert np.allclose([time for _, time, _ in before], [time for _, time, _ in after], atol=0.00051)


def test_mux_keeps_variable_frame_rates(make_clip, clicks, tmp_path):
    video = make_clip("a.mp4", times=[0, 40, 80, 500, 1000], time_base=Fraction(1, 1000))
    mux(video, clicks(RATE, 5000), RATE, tmp_path / "out.mp4")
    assert packets(tmp_path / "out.mp4") == packets(video)


@pytest.mark.parametrize(("suffix", "end"), [(".mp4", AAC_PACKET), (".mov", AAC_PACKET), (".mkv", AAC_PACKET), (".webm", OPUS_PACKET)])
@pytest.mark.parametrize("n_samples", [17640, 17000, 30001, 100])
def test_audio_has_the_waveforms_position_and_length(make_clip, clicks, tmp_path, suffix, end, n_samples):
    """To the sample: the codec's delay (1024 samples of AAC, 6.5 ms of Opus) would be a lip-sync error of 46 ms."""
    video = make_clip("a.webm", codec="libvpx-vp9") if suffix == ".webm" else make_clip("a.mp4")
    at = sorted({40, n_samples // 2, n_samples - 40})
    mux(video, clicks(n_samples, *at), RATE, tmp_path / f"out{suffix}")
    decoded = np.abs(read_audio(tmp_path / f"out{suffix}", RATE))
    assert 0 <= len(decoded) - n_samples <= end
    found = np.flatnonzero(decoded > 0.4)
    assert all(np.abs(found - position).min() <= 1 for position in at)
    assert all(np.abs(np.array(at) - position).min() <= 3 for position in found)


@pytest.mark.parametrize("sample_rate", [16000, 20000, 22050, 44100, 48000])
def test_mux_accepts_any_sample_rate(make_clip, clicks, tmp_path, sample_rate):
    mux(make_clip("a.mp4"), clicks(sample_rate, sample_rate // 2), sample_rate, tmp_path / "out.mp4")
    decoded = np.abs(read_audio(tmp_path / "out.mp4", sample_rate))
    assert abs(int(decoded.argmax()) - sample_rate // 2) <= 2
    assert abs(len(decoded) - sample_rate) <= AAC_PACKET


def test_decoded_audio_equals_the_waveform(make_clip, tmp_path):
    time = np.arange(2 * RATE) / RATE
    waveform = (0.4 * np.sin(2 * np.pi * (200 + 300 * time) * time)).astype(np.float32)
    mux(make_clip("a.mp4", n_frames=50), waveform, RATE, tmp_path / "out.mp4")
    decoded = read_audio(tmp_path / "out.mp4", RATE)[: len(waveform)]
    assert np.sqrt(np.mean((decoded - waveform) ** 2)) < 0.01 * np.sqrt(np.mean(waveform**2))


@pytest.mark.parametrize("source", ["a.mp4", "a.mkv", "a.ts"])
def test_audio_starts_with_the_first_frame(make_clip, clicks, read_number, tmp_path, source):
    """For a video whose time stamps start at 2 s, both tracks of the result start at 0."""
    video, out = make_clip(source, first=50, n_frames=25), tmp_path / "out.mp4"
    mux(video, clicks(RATE, 5000), RATE, out)
    assert packets(out)[0][1] == 0
    assert [read_number(frame) for _, frame in stream_frames(out, 25)] == list(range(25))
    assert abs(int(np.abs(read_audio(out, RATE)).argmax()) - 5000) <= 1


@pytest.mark.parametrize("rotation", [90, 180, 270])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_mux_keeps_the_rotation(make_clip, clicks, tmp_path, rotation, suffix):
    video, out = make_clip("a.mp4", rotation=rotation), tmp_path / f"out{suffix}"
    mux(video, clicks(RATE, 5000), RATE, out)
    assert (probe(out).rotation, probe(out).width) == (probe(video).rotation, probe(video).width)


def test_mux_keeps_colour_and_sample_aspect_ratio(make_clip, clicks, tmp_path):
    options = {"x264-params": "colorprim=bt709:transfer=bt709:colormatrix=bt709:range=pc:sar=4/3"}
    video, out = make_clip("a.mp4", options=options), tmp_path / "out.mp4"
    mux(video, clicks(RATE, 5000), RATE, out)

    def facts(path):
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            frame = next(container.decode(stream))
            return (
                stream.sample_aspect_ratio,
                stream.average_rate,
                frame.colorspace,
                frame.color_range,
                frame.color_primaries,
                frame.color_trc,
            )

    assert facts(out) == facts(video)
    assert facts(out)[0] == Fraction(4, 3)


def test_hevc_in_mp4_has_the_tag_hvc1(make_clip, clicks, tmp_path):
    video = make_clip("a.mkv", codec="libx265", options={"x265-params": "log-level=none"})
    mux(video, clicks(RATE, 5000), RATE, tmp_path / "out.mp4")
    with av.open(str(tmp_path / "out.mp4")) as container:
        assert container.streams.video[0].codec_context.codec_tag == "hvc1"


def test_mux_writes_the_comment_and_keeps_metadata(make_clip, clicks, tmp_path):
    video = make_clip("a.mkv")
    for name in ("one.mp4", "one.mkv", "one.mov"):
        mux(video, clicks(RATE, 5000), RATE, tmp_path / name, comment="made by hand: naïve = 1")
        assert read_comment(tmp_path / name) == "made by hand: naïve = 1"
    mux(tmp_path / "one.mp4", clicks(RATE, 5000), RATE, tmp_path / "two.mp4")
    assert read_comment(tmp_path / "two.mp4") == "made by hand: naïve = 1"


def test_mux_copies_subtitles_that_the_container_supports(make_clip, clicks, tmp_path):
    (tmp_path / "a.srt").write_text("1\n00:00:00,200 --> 00:00:00,600\nHello\n\n")
    with av.open(str(make_clip("a.mp4"))) as video, av.open(str(tmp_path / "a.srt")) as text, av.open(str(tmp_path / "b.mkv"), "w") as both:
        copies = [both.add_stream_from_template(source.streams[0], opaque=True) for source in (video, text)]
        for source, copy in zip((text, video), copies[::-1], strict=True):
            for packet in source.demux(0):
                if packet.size:
                    packet.stream = copy
                    both.mux(packet)
    for name, n_subtitles in (("out.mkv", 1), ("out.mp4", 0)):
        plan = mux(tmp_path / "b.mkv", clicks(RATE, 5000), RATE, tmp_path / name)
        assert n_subtitles or "left out subtitles (srt), which .mp4 cannot hold; .mkv holds more" in plan.notes[0]
        with av.open(str(tmp_path / name)) as container:
            assert len(container.streams.subtitles) == n_subtitles
            assert len(container.streams.audio) == 1
            if n_subtitles:
                first = next(container.demux(container.streams.subtitles[0]))
                assert (bytes(first), first.pts * first.time_base) == (b"Hello", Fraction(1, 5))


@pytest.mark.parametrize(("original", "gain"), [("drop", 0.0), ("keep", 1.0), ("duck", 10 ** (-12 / 20))])
def test_original_audio_is_mixed_with_its_gain(make_clip, clicks, tmp_path, original, gain):
    """Channel by channel, next to the new audio at an unchanged level."""
    time = np.arange(35280) / 44100
    own = np.stack([0.3 * np.sin(2 * np.pi * 1000 * time), np.zeros_like(time)])
    video = make_clip("a.mp4", sound=own, sound_rate=44100)
    new = (0.2 * np.sin(2 * np.pi * 400 * np.arange(17640) / RATE)).astype(np.float32)
    mux(video, new, RATE, tmp_path / "out.mp4", original)
    with av.open(str(tmp_path / "out.mp4")) as container:
        stream = container.streams.audio[0]
        rate = stream.sample_rate
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(stream)], axis=1)[:, : int(0.8 * rate)]
    time = np.arange(sound.shape[1]) / rate
    level = 2 / sound.shape[1] * np.abs(sound @ np.exp(-2j * np.pi * np.outer(time, [400, 1000])))
    assert level[:, 0] == pytest.approx([0.2] * len(sound), abs=0.01)
    assert len(sound) == (1 if original == "drop" else 2), "stereo must remain stereo"
    assert level[0, 1] == pytest.approx(0.3 * gain, abs=0.01)
    assert level[-1, 1] == pytest.approx(0.0, abs=0.01)
    if original == "drop":
        assert np.std(sound[0] - new[: sound.shape[1]]) < 0.05 * np.std(new)


@pytest.mark.parametrize("own_seconds", [0.2, 3.0])
def test_mix_has_the_length_of_the_waveform(make_clip, tmp_path, own_seconds):
    video = make_clip("a.mp4", sound=np.full((1, int(own_seconds * RATE)), 0.1))
    mux(video, np.zeros(17640, dtype=np.float32), RATE, tmp_path / "out.mp4", "keep")
    assert abs(len(read_audio(tmp_path / "out.mp4", RATE)) - 17640) <= AAC_PACKET


def test_mix_beyond_full_scale_is_scaled_down(make_clip, tmp_path):
    """0.8 + 0.8 would clip at 1. Decoded as floats, because the encoder reduces clipping itself after a few packets."""
    sine = (0.8 * np.sin(2 * np.pi * 440 * np.arange(17640) / RATE)).astype(np.float32)
    mux(make_clip("a.mp4", sound=sine[None]), sine, RATE, tmp_path / "out.mp4", "keep")
    with av.open(str(tmp_path / "out.mp4")) as container:
        decoded = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert np.abs(decoded).max() < 1.1
    inner = slice(2048, 15000)
    assert np.abs(decoded[inner] - sine[inner] / 0.8 * np.abs(decoded[inner]).max()).max() < 0.03


def test_video_without_audio_gives_the_same_result_for_any_original(make_clip, clicks, tmp_path):
    video, waveform = make_clip("a.mp4"), clicks(17640, 5000)
    for original in ("drop", "keep", "duck"):
        mux(video, waveform, RATE, tmp_path / f"{original}.mp4", original)
    assert packets(tmp_path / "drop.mp4", "audio") == packets(tmp_path / "keep.mp4", "audio") == packets(tmp_path / "duck.mp4", "audio")


@pytest.mark.parametrize("n_samples", [2000, 66150])
def test_video_is_unchanged_by_audio_of_another_length(make_clip, clicks, tmp_path, n_samples):
    video = make_clip("a.mp4")
    mux(video, clicks(n_samples, 1000), RATE, tmp_path / "out.mp4")
    assert packets(tmp_path / "out.mp4") == packets(video)


def test_audio_is_encoded_while_video_is_copied(make_clip, clicks, tmp_path, monkeypatch):
    """Encoding all audio before or after the video would buffer hours of packets in memory."""
    video, n_samples, n_encoded, progress = make_clip("a.mp4", n_frames=200), 8 * RATE, 0, []
    ndarray_to_frame, demux = av.AudioFrame.from_ndarray, mux_module.demux

    class Counting:
        @staticmethod
        def from_ndarray(block, **options):
            nonlocal n_encoded
            n_encoded += block.shape[1]
            return ndarray_to_frame(block, **options)

    def recording(*args):
        for packet in demux(*args):
            if packet.size:
                progress.append((float(packet.dts * packet.time_base), n_encoded / RATE))
            yield packet

    monkeypatch.setattr(av, "AudioFrame", Counting)
    monkeypatch.setattr(mux_module, "demux", recording)
    mux(video, clicks(n_samples, 5000), RATE, tmp_path / "out.mp4")
    assert len(progress) == 200
    assert max(abs(video_seconds - audio_seconds) for video_seconds, audio_seconds in progress) < 1


def test_mux_uses_the_readable_part_of_a_truncated_file(make_clip, clicks, tmp_path):
    video = make_clip("a.mkv", n_frames=100)
    video.write_bytes(video.read_bytes()[: video.stat().st_size * 6 // 10])
    mux(video, clicks(RATE, 5000), RATE, tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4").seconds == pytest.approx(probe(video).seconds, abs=0.05)


@pytest.mark.parametrize("n_b_frames", [0, 3])
def test_frames_hidden_by_an_edit_list_stay_hidden(make_clip, clicks, read_number, tmp_path, n_b_frames):
    """The only key frame is 2.2 s before time 0, where the edit list starts; Matroska would display the frames between."""
    video = make_clip("a.mp4", first=-55, n_frames=100, options={"g": "250", "bf": str(n_b_frames)})
    assert (probe(video).seconds, sum(time < 0 for _, time, *_ in packets(video))) == (1.8, 55)
    mux(video, clicks(RATE, 5000), RATE, tmp_path / "out.mp4")
    assert probe(tmp_path / "out.mp4").seconds == 1.8
    for path in (video, tmp_path / "out.mp4"):
        assert [read_number(frame) for _, frame in stream_frames(path, 25)] == list(range(55, 100))
    assert abs(int(np.abs(read_audio(tmp_path / "out.mp4", RATE)).argmax()) - 5000) <= 1
    plan = mux(video, clicks(RATE, 5000), RATE, tmp_path / "out.mkv")
    assert "encoded as lossless FFV1, because an edit list hides some of them, which .mkv cannot" in plan.notes[0]
    assert [read_number(frame) for _, frame in stream_frames(tmp_path / "out.mkv", 25)] == list(range(55, 100))


@pytest.mark.parametrize("name", ["out.avi", "out.gif", "out"])
def test_unknown_suffix_is_refused(make_clip, clicks, tmp_path, name):
    with pytest.raises(MediaError, match=r"is not among \.mp4, \.m4v, \.mov, \.mkv, \.webm; choose one of them"):
        mux(make_clip("a.mp4"), clicks(RATE, 5000), RATE, tmp_path / name)


def test_mux_refuses_to_overwrite_the_video(make_clip, clicks, tmp_path):
    video = make_clip("a.mp4")
    before = video.read_bytes()
    (tmp_path / "link.mp4").symlink_to(video)
    for out in (video, tmp_path / "link.mp4", tmp_path / ".." / tmp_path.name / "a.mp4"):
        with pytest.raises(MediaError, match="is the video itself; choose another name"):
            mux(video, clicks(RATE, 5000), RATE, out)
    assert video.read_bytes() == before


def test_missing_video_is_refused(clicks, tmp_path):
    with pytest.raises(MediaError, match=r"a\.mp4 does not exist"):
        mux(tmp_path / "a.mp4", clicks(RATE, 5000), RATE, tmp_path / "out.mp4")


def test_raw_stream_gets_time_stamps(make_clip, clicks, read_number, tmp_path):
    mux(make_clip("a.h264"), clicks(RATE, 5000), RATE, tmp_path / "out.mp4")
    assert [read_number(frame) for _, frame in stream_frames(tmp_path / "out.mp4", 25)] == list(range(20))


def test_missing_folder_is_refused(make_clip, clicks, tmp_path):
    with pytest.raises(MediaError, match=r"out\.mp4 cannot be written: No such file or directory"):
        mux(make_clip("a.mp4"), clicks(RATE, 5000), RATE, tmp_path / "missing" / "out.mp4")


def test_mux_on_a_full_disk_leaves_the_old_file_only(make_clip, tmp_path, small_files_only):
    video = make_clip("a.mp4", n_frames=3)
    (tmp_path / "out.mp4").write_text("old")
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 10 * RATE).astype(np.float32)
    with pytest.raises(MediaError, match=r"out\.mp4 cannot be written: File too large"):
        mux(video, noise, RATE, tmp_path / "out.mp4")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mp4", "out.mp4"]
    assert (tmp_path / "out.mp4").read_text() == "old"


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])
def test_interrupted_mux_leaves_nothing(make_clip, clicks, tmp_path, monkeypatch, error):
    video, n_calls = make_clip("a.mp4"), 0
    ndarray_to_frame = av.AudioFrame.from_ndarray

    class Interrupting:
        @staticmethod
        def from_ndarray(*args, **kwargs):
            nonlocal n_calls
            n_calls += 1
            if n_calls == 3:
                raise error
            return ndarray_to_frame(*args, **kwargs)

    monkeypatch.setattr(av, "AudioFrame", Interrupting)
    with pytest.raises(error):
        mux(video, clicks(RATE, 5000), RATE, tmp_path / "out.mp4")
    assert [path.name for path in tmp_path.iterdir()] == ["a.mp4"]


def test_concurrent_calls_for_one_output_give_a_complete_file(make_clip, clicks, tmp_path):
    video, out = make_clip("a.mp4", n_frames=50), tmp_path / "out.mp4"
    threads = [threading.Thread(target=mux, args=(video, clicks(2 * RATE, 5000), RATE, out)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert packets(out) == packets(video)
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "out.mp4"]


def test_empty_waveform_is_refused(make_clip, tmp_path):
    with pytest.raises(ParameterError, match="audio of 0 samples at 22050 Hz was given; both must be positive"):
        mux(make_clip("a.mp4"), np.zeros(0, dtype=np.float32), RATE, tmp_path / "out.mp4")


def test_unknown_value_of_original_is_refused(tmp_path):
    with pytest.raises(ParameterError, match="original is 'mute', but must be drop, keep or duck"):
        check_mux_arguments(tmp_path / "a.mp4", np.zeros(5), RATE, tmp_path / "out.mp4", "mute")
