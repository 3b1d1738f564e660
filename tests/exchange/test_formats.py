"""Files of other programs: what is written is read by their own libraries, and their content is read here."""

import dataclasses
import os
import shutil
from fractions import Fraction

import mido
import opentimelineio as otio
import pycmx
import pytest
import rpp

from unsilent.cues import Cue
from unsilent.errors import DataError, MediaError, ParameterError
from unsilent.exchange.formats import read_cues, write_export
from unsilent.exchange.tables import read_prompt_track
from unsilent.exchange.timecode import frame_rate, parse, show, start_frame
from unsilent.exchange.timeline import Timeline

CUES = [Cue(seconds=0.25), Cue(seconds=1.0, strength=0.5, label="dog"), Cue(seconds=2.5, length=0.4, label="car horn")]
NTSC = Fraction(30000, 1001)


@pytest.fixture
def timeline(make_clip, tmp_path):
    (tmp_path / "sounds").mkdir()
    sounds = [tmp_path / "sounds" / f"clip.take{take}.wav" for take in (1, 2)]
    for sound in sounds:
        sound.write_bytes(b"RIFF")
    return Timeline.of(make_clip("clip.mp4", n_frames=100), sounds, CUES)


@pytest.mark.parametrize("suffix", [".csv", ".mid", ".edl", ".otio", ".otioz", ".rpp"])
def test_what_is_written_is_read_again(suffix, timeline, tmp_path):
    out = tmp_path / f"cues{suffix}"
    write_export(out, timeline)
    found = read_cues(out, timeline.rate)
    tolerance = 0.0201 if suffix == ".edl" else 0.001
    assert [cue.seconds for cue in found] == pytest.approx([0.25, 1.0, 2.5], abs=tolerance)
    if suffix == ".csv":
        assert found == CUES
    elif suffix == ".mid":
        assert [round(cue.strength, 1) for cue in found] == [1.0, 0.5, 1.0]
    else:
        assert [cue.label for cue in found] == [None, "dog", "car horn"]


def test_timelines_are_read_by_their_own_library(timeline, tmp_path):
    write_export(tmp_path / "clip.otio", timeline)
    found = otio.adapters.read_from_file(str(tmp_path / "clip.otio"))
    video, first, second = found.tracks
    assert (video.kind, first.kind, first.enabled, second.enabled) == ("Video", "Audio", True, False)
    assert first[0].media_reference.target_url == "sounds/clip.take1.wav"
    assert found.duration().to_seconds() == pytest.approx(4.0)
    assert [marker.marked_range.start_time.to_seconds() for marker in found.tracks.markers] == pytest.approx([0.25, 1.0, 2.5])


@pytest.mark.parametrize("suffix", [".edl", ".otio", ".otioz", ".rpp"])
@pytest.mark.parametrize("name", [b"caf\xe9.mp4", b"a#b?c d.mp4"])
def test_any_name_can_be_exported(timeline, tmp_path, name, suffix):
    video, out = tmp_path / os.fsdecode(name), tmp_path / f"a{suffix}"
    shutil.copy(timeline.video, video)
    timeline = dataclasses.replace(timeline, video=video)
    if suffix == ".otioz" and b"\xe9" in name:
        with pytest.raises(MediaError, match="names must be UTF-8"):
            write_export(out, timeline)
    else:
        write_export(out, timeline)
        assert [cue.label for cue in read_cues(out, timeline.rate)] == [None, "dog", "car horn"]


def test_bundles_hold_the_media(timeline, tmp_path):
    write_export(tmp_path / "clip.otioz", timeline)
    (tmp_path / "unpacked").mkdir()
    found = otio.adapters.read_from_file(str(tmp_path / "clip.otioz"), extract_to_directory=str(tmp_path / "unpacked"))
    assert len(list(found.find_clips())) == 3
    assert sorted(path.name for path in (tmp_path / "unpacked").rglob("clip.*") if path.is_file()) == [
        "clip.mp4", "clip.take1.wav", "clip.take2.wav",
    ]  # fmt: skip


def test_midi_is_read_by_its_own_library(timeline, tmp_path):
    write_export(tmp_path / "hits.mid", timeline, [("take 1", CUES), ("take 2", CUES[:1])])
    file = mido.MidiFile(tmp_path / "hits.mid")
    assert [track.name for track in file.tracks] == ["", "take 1", "take 2"]
    seconds, found = 0.0, []
    for message in file:
        seconds += message.time
        if message.type == "note_on":
            found.append((round(seconds, 3), message.velocity))
    assert sorted(found) == [(0.25, 127), (0.25, 127), (1.0, 64), (2.5, 127)]


def test_midi_of_a_sound_without_onsets_has_an_empty_track(timeline, tmp_path):
    write_export(tmp_path / "wind.mid", timeline, [("take 1", [])])
    assert [message.type for message in mido.MidiFile(tmp_path / "wind.mid").tracks[1]] == ["track_name", "end_of_track"]


def test_midi_of_another_tempo_is_read(tmp_path):
    file = mido.MidiFile(ticks_per_beat=480)
    tempo = mido.MidiTrack([mido.MetaMessage("set_tempo", tempo=1_000_000), mido.MetaMessage("set_tempo", tempo=250_000, time=480)])
    notes = mido.MidiTrack([mido.Message("note_on", note=60, velocity=100, time=480), mido.Message("note_on", note=60, velocity=0, time=48),
                            mido.Message("note_on", note=62, velocity=127, time=912)])  # fmt: skip
    file.tracks += [tempo, notes]
    file.save(tmp_path / "a.mid")
    found = read_cues(tmp_path / "a.mid", Fraction(25))
    assert [(cue.seconds, cue.strength) for cue in found] == [(1.0, 0.787), (1.5, 1.0)]


def test_projects_have_markers_and_muted_takes(timeline, tmp_path):
    write_export(tmp_path / "clip.rpp", timeline)
    text = (tmp_path / "clip.rpp").read_text()
    assert text.count("<TRACK") == 3
    assert [line.split()[1] for line in text.splitlines() if "MUTESOLO" in line] == ["1", "0", "1"]
    assert 'FILE "sounds/clip.take1.wav"' in text
    depth = 0
    for line in map(str.strip, text.splitlines()):
        depth += line.startswith("<") - (line == ">")
    assert depth == 0


def test_projects_and_cut_lists_are_read_by_other_libraries(timeline, tmp_path):
    for suffix in (".rpp", ".edl"):
        write_export(tmp_path / f"clip{suffix}", timeline)
    project = rpp.loads((tmp_path / "clip.rpp").read_text())
    assert [marker[2:4] for marker in project.findall("MARKER")][:3] == [
        ["0.250000", "cue 1"],
        ["1.000000", "dog"],
        ["2.500000", "car horn"],
    ]
    sources = [track.find("ITEM").find("SOURCE") for track in project.findall("TRACK")]
    assert [(one.attrib[0], one.find("FILE")[1]) for one in sources] == [
        ("VIDEO", "clip.mp4"), ("WAVE", "sounds/clip.take1.wav"), ("WAVE", "sounds/clip.take2.wav"),
    ]  # fmt: skip
    with (tmp_path / "clip.edl").open() as file:
        cuts = pycmx.parse_cmx3600(file)
    (event,) = cuts.events
    assert (cuts.title, event.edits[0].record_out, event.edits[0].clip_name) == ("clip", "00:00:04:00", "clip.mp4")
    assert not [one for one in cuts.unrecognized_statements if one.content.strip()]


def test_markers_of_reaper_and_resolve_are_read(tmp_path):
    (tmp_path / "a.rpp").write_text(
        '<REAPER_PROJECT 0.1 "6.80/win64" 1680000000\n  MARKER 1 1.5 "door slam" 0 0 1 R {X} 0\n  MARKER 2 2 Hit 8 0\n'
        '  MARKER 3 3.25 "" 1 0 1\n  MARKER 3 4 "" 1\n>\n'
    )
    found = read_cues(tmp_path / "a.rpp", Fraction(25))
    assert [(cue.seconds, cue.label, cue.length) for cue in found] == [(1.5, "door slam", None), (2.0, "Hit", None), (3.25, None, 0.75)]
    (tmp_path / "b.edl").write_text(
        "TITLE: Timeline 1\nFCM: NON-DROP FRAME\n\n001  001      V     C        01:00:02:10 01:00:02:11 01:00:02:10 01:00:02:11  \n"
        " |C:ResolveColorBlue |M:Marker 1 |D:1\n\n002  001      V     C        01:00:03:00 01:00:03:01 01:00:03:00 01:00:03:01  \n"
        " |C:ResolveColorBlue |M:gun |D:1\n"
    )
    found = read_cues(tmp_path / "b.edl", Fraction(25))
    assert [(cue.seconds, cue.label) for cue in found] == [(2.4, None), (3.0, "gun")], "from 01:00:00:00 on"


def test_markers_of_reaper_count_from_the_video(tmp_path):
    """Which is cut, and begins where its picture does; names are quoted in three ways."""
    (tmp_path / "a.rpp").write_text(
        '<REAPER_PROJECT 0.1 "7.0/linux" 0\n  MARKER 1 5 early 0\n  MARKER 2 11 `it\'s "loud"` 0\n'
        "  MARKER 3 12 'a \"b\"' 0\n"
        '  MARKER 4 13 "a\\b" 0\n'
        "  <TRACK\n    <ITEM\n      POSITION 3\n      SOFFS 7\n      <SOURCE WAVE\n      >\n    >\n    <ITEM\n      POSITION 10\n"
        '      SOFFS 2\n      <SOURCE VIDEO\n        FILE "a.mp4"\n      >\n    >\n  >\n>\n'
    )
    found = read_cues(tmp_path / "a.rpp", Fraction(25))
    assert [(cue.seconds, cue.label) for cue in found] == [(3.0, 'it\'s "loud"'), (4.0, 'a "b"'), (5.0, "a\\b")]


def test_markers_of_timelines_may_be_timecodes(tmp_path):
    at = lambda frames: otio.opentime.RationalTime(frames, 24)  # noqa: E731
    made = otio.schema.Timeline("a", global_start_time=at(86400))
    made.tracks.append(otio.schema.Track("v", kind="Video"))
    made.tracks[0].append(otio.schema.Clip("a", source_range=otio.opentime.TimeRange(at(48), at(240))))
    for item, frames in ((made.tracks, 86412), (made.tracks, 24), (made.tracks[0][0], 84)):
        item.markers.append(otio.schema.Marker("", otio.opentime.TimeRange(at(frames), at(1))))
    otio.adapters.write_to_file(made, str(tmp_path / "a.otio"))
    assert [cue.seconds for cue in read_cues(tmp_path / "a.otio", Fraction(24))] == [0.5, 1.0, 1.5]


def test_cuts_are_cues_where_a_list_has_no_markers(tmp_path):
    lines = [f"{i:03}  AX  V  C  00:00:0{i}:00 00:00:0{i + 1}:00 10:00:0{i}:00 10:00:0{i + 1}:00" for i in range(3)]
    (tmp_path / "a.edl").write_text("\n".join(lines))
    assert [cue.seconds for cue in read_cues(tmp_path / "a.edl", Fraction(25))] == [1.0, 2.0]


@pytest.mark.parametrize(
    ("name", "text", "seconds"),
    [
        ("a.csv", "seconds\n1\n2.5\n", [1, 2.5]),
        ("a.csv", "1\n2.5\n", [1, 2.5]),
        ("a.csv", "Seconds;Label\n2,5;\n", None),
        ("a.csv", "seconds;label\n1:02.5;dog\n", [62.5]),
        ("a.tsv", "seconds\tstrength\n3\t0.5\n1\t1\n", [1, 3]),
        ("a.txt", "1.0\t1.0\tdog\n2.0\t2.5\tcat\n", [1, 2]),
        ("a.csv", "#,Name,Start,End,Length\nM1,,0:01.000,,\nR1,dog,0:02.000,0:03.000,0:01.000\n", [1, 2]),
    ],
)
def test_tables_of_people_and_programs_are_read(name, text, seconds, tmp_path):
    (tmp_path / name).write_text(text)
    if seconds is None:
        with pytest.raises(DataError, match=r"line 2"):
            read_cues(tmp_path / name, Fraction(25))
    else:
        assert [cue.seconds for cue in read_cues(tmp_path / name, Fraction(25))] == seconds


EVENT = "001  AX  V  C  00:00:00:00 00:00:01:00 01:00:00:00 01:00:01:00\n"
RPP = "<REAPER_PROJECT 0.1\n"
WRONG = [
    ("a.csv", b"", "is empty"),
    ("a.csv", b"time\n1\n", "no column 'seconds'"),
    ("a.csv", b"seconds,loudness\n1,2\n", "a column 'loudness'; known are seconds, strength, label, length"),
    ("a.csv", b"seconds\nsoon\n", "line 2 of .*: 'soon' is not a number of seconds"),
    ("a.csv", b"seconds\n-1\n", "line 2 of .*: seconds is -1.0, but must be 0 or more"),
    ("a.csv", b"seconds\nnan\n", "'nan' is not a number"),
    ("a.csv", b"seconds\n1e999\n", "line 2 of .*seconds is inf, but must be a finite number"),
    ("a.csv", b"seconds,strength\n1,2\n", "strength is 2.0, but must be 1 or less"),
    ("a.csv", b"seconds,strength\n1,0\n", "strength is 0.0, but must be above 0"),
    ("a.csv", b"seconds,length\n1,-2\n", "length is -2.0, but must be above 0"),
    ("a.csv", b"seconds,label\n,dog\n", "line 2 of .*: it has no time"),
    ("a.csv", b"seconds\n", "has no cues"),
    ("a.csv", b"1,1,dog,1,1\n", "has 5 columns without names"),
    ("a.csv", b"\xff\xfe\x00\xd8", "is not UTF-8"),
    ("a.csv", b"\x89PNG\r\n\x1a\n\x00\x00", "is not UTF-8"),
    ("a.txt", b"hello\nworld\n", "no column 'seconds'"),
    ("a.mid", b"", "MIDI"),
    ("a.mid", b"MThd\x00\x00\x00\x06\x00\x01\x00\x01\x01\xe0", "has no notes|MIDI"),
    ("a.mid", b"RIFF" + bytes(40), "MIDI"),
    ("a.mid", b"MThd\x00\x00\x00\x06\x00\x00\x00\x01\x01\xe0MTrk\x00\x00\x00\x04\x00\xff\x2f\x00", "has no notes"),
    ("a.edl", b"hello", "is not a cut list"),
    ("a.edl", b"001  AX  V  C  00:00:00:30 00:00:01:00 01:00:00:00 01:00:00:99\n", "is not a timecode at 25 frames|neither markers"),
    ("a.edl", EVENT.encode(), "neither markers nor cuts"),
    ("a.edl", (EVENT + "* LOC: 00:59:00:00 RED x\n").encode(), "60.00 s before its first event"),
    ("a.edl", (EVENT + "* LOC: 01:00:00:29 RED x\n").encode(), "is not a timecode at 25 frames per second"),
    ("a.rpp", b"<PROJECT\n", "is not a Reaper project"),
    ("a.rpp", RPP.encode(), "has no markers"),
    ("a.rpp", (RPP + "  MARKER 1 soon x 0\n").encode(), "line 2 of .* is not a valid marker"),
    ("a.otio", b"{}", "is not an OpenTimelineIO file|is not a timeline"),
    ("a.otio", b"not json", "is not an OpenTimelineIO file"),
    ("a.otio", otio.schema.Clip("x").to_json_string().encode(), "is not a timeline, but a Clip"),
    ("a.otio", otio.schema.Timeline("x").to_json_string().encode(), "has no markers"),
    ("a.otio", b'{"a": "]", "b": ' + b"[" * 100_000, "nested more than 500 levels deep"),
    ("a.otioz", b"PK\x03\x04broken", "is not an OpenTimelineIO file|cannot be read"),
    ("a.xml", b"<xml/>", "is not a file of cues: known suffixes are .edl"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), WRONG, ids=[f"{number}-{name}" for number, (name, _, _) in enumerate(WRONG)])
def test_wrong_files_are_named_in_one_sentence(name, content, sentence, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises((DataError, ParameterError), match=sentence) as caught:
        read_cues(path, Fraction(25))
    assert "a." in str(caught.value)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(MediaError, match=r"a\.csv does not exist"):
        read_cues(tmp_path / "a.csv", Fraction(25))


def test_a_prompt_track_needs_labels_and_order(tmp_path):
    path = tmp_path / "track.csv"
    path.write_text("start,stop,label\n0,2,dog\n2,4.5,cat\n")
    assert [str(one) for one in read_prompt_track(path)] == ["0-2:dog", "2-4.5:cat"]
    path.write_text("0,2,\n")
    with pytest.raises(DataError, match=r"line 1 of .* has no label"):
        read_prompt_track(path)
    path.write_text("2,1,dog\n")
    with pytest.raises(DataError, match=r"line 1 of .*ends before it begins"):
        read_prompt_track(path)


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), 24, 25, NTSC, 30, 50, Fraction(60000, 1001), 60])
@pytest.mark.parametrize("is_drop", [False, True])
def test_timecodes_are_inverse(rate, is_drop):
    rate = Fraction(rate)
    for frame in [0, 1, 1799, 1800, 1801, 17981, 17982, 17983, 35964, 107892, 500000, 1234567]:
        assert parse(show(frame, rate, is_drop), rate) == frame


def test_drop_frames_follow_the_clock():
    assert show(1800, NTSC, True) == "00:01:00;02"
    assert show(107892, NTSC, True) == "01:00:00;00"


def test_rate_and_timecode_of_a_video(make_clip):
    path = make_clip("a.mov", fps=NTSC, n_frames=30)
    assert frame_rate(path) == NTSC
    assert start_frame(path, NTSC) == (0, False)
