"""Cues, silence, formats and projects from the command line, with the tiny model."""

import json

import numpy as np
import pytest
import soundfile


@pytest.fixture
def clip(make_clip):
    return make_clip("a.mp4", n_frames=75)


def test_cues_are_listed_written_and_converted(unsilent, clip, tmp_path):
    assert unsilent("cues", clip)[0] == 0
    assert unsilent("cues", clip, "-o", "a.csv")[0] == 0
    assert (tmp_path / "a.csv").read_text().startswith("seconds")
    (tmp_path / "b.csv").write_text("seconds,strength\n0.5,1\n1.25,0.5\n")
    assert unsilent("cues", clip, "--read", "b.csv", "-o", "b.mid") == (0, "b.mid: 2 cues\n", [])
    code, out, _ = unsilent("cues", clip, "--read", "b.mid")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["0.500", "1.00"], ["1.250", "0.50"]]


def test_files_of_cues_are_not_replaced(unsilent, refused, clip, tmp_path):
    (tmp_path / "a.csv").write_text("mine")
    refused(unsilent("cues", clip, "-o", "a.csv"), "a.csv exists; choose another name")
    refused(unsilent("cues", clip, "-o", "a.doc"), "choose one of .csv, .otio")


def test_generate_obeys_cues_and_silence(unsilent, clip, tmp_path):
    (tmp_path / "cues.csv").write_text("seconds,length\n0.5,0.2\n1.5,0.2\n")
    code, out, _ = unsilent("generate", clip, "-o", "out", "--cues", "cues.csv", "--mute", "2-2.5", "--wav", "--json")
    assert code == 0
    record = json.loads(out)
    assert record["cues"] == ["0.5+0.2", "1.5+0.2"]
    assert record["mute"] == ["2-2.5"]
    sound, rate = soundfile.read(tmp_path / "out" / "a.wav")
    assert len(sound) == 3 * rate
    assert not sound[round(2.02 * rate) : round(2.48 * rate)].any()
    assert not sound[round(0.8 * rate) : round(1.4 * rate)].any()


def test_formats_and_projects_are_written_and_replaced(unsilent, clip, tmp_path):
    options = ("-o", "out", "--takes", 2, "--wav", "--flac", "--opus", "--rate", 48000, "--bits", 24, "--stereo",
               "--export", "otio,rpp,mid,edl", "--fade-in", 0.2, "--lufs", -20, "--true-peak", -2)  # fmt: skip
    for _ in range(2):
        assert unsilent("generate", clip, *options)[0] == 0
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if not path.name.endswith(".json"))
    takes = [f"a.take{take}{suffix}" for take in (1, 2) for suffix in (".flac", ".mp4", ".opus", ".wav")]
    assert names == sorted([*takes, "a.edl", "a.mid", "a.otio", "a.rpp"])
    about = soundfile.info(tmp_path / "out" / "a.take1.wav")
    assert (about.samplerate, about.channels, about.subtype, about.frames) == (48000, 2, "PCM_24", 144000)
    sound = soundfile.read(tmp_path / "out" / "a.take1.wav")[0]
    assert np.abs(sound[:10]).max() < 0.01
    assert 'FILE "a.take2.wav"' in (tmp_path / "out" / "a.rpp").read_text()


def test_projects_of_others_stay(unsilent, refused, clip, tmp_path):
    (tmp_path / "a.sound.rpp").write_text("<REAPER_PROJECT 0.1\n>\n")
    refused(unsilent("generate", clip, "--export", "rpp"), "a.sound.rpp exists and was not made by unsilent")
    assert (tmp_path / "a.sound.rpp").read_text() == "<REAPER_PROJECT 0.1\n>\n"
    assert not (tmp_path / "a.sound.mp4").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--cues", "gone.csv"), "gone.csv does not exist"),
        (("--cues", "wrong.csv"), "line 2 of wrong.csv"),
        (("--mute", "4-2"), "ends before it begins"),
        (("--mute", "soon"), "'soon' is not a stretch of time"),
        (("--prompt-track", "track.csv"), "has no classes"),
        (("--export", "aaf"), "'aaf' is unknown; choose among otio"),
        (("--rate", 8000), "rate is 8000"),
        (("--lufs", 3), "lufs is 3.0, but must be -5 or less"),
        (("--bits", "32f", "--flac"), "FLAC cannot store floating point"),
        (("--stems",), "--stems needs labels over time"),
    ],
)
def test_mistakes_are_named(unsilent, refused, clip, tmp_path, options, sentence):
    (tmp_path / "wrong.csv").write_text("seconds\nsoon\n")
    (tmp_path / "track.csv").write_text("0,1,dog\n")
    refused(unsilent("generate", clip, *options), sentence)
    assert not list(tmp_path.glob("*.sound.*"))


def test_a_file_of_cues_is_for_one_video(unsilent, refused, make_clip, tmp_path):
    (tmp_path / "cues.csv").write_text("1\n")
    refused(unsilent("generate", make_clip("a.mp4"), make_clip("b.mp4"), "--cues", "cues.csv"), "--cues FILE applies to one video")
