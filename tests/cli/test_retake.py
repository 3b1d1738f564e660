"""`unsilent retake`: files, records and refusals."""

import json

import numpy as np
import pytest
import soundfile


@pytest.fixture
def made(unsilent, make_clip, tmp_path):
    make_clip("a.mp4", n_frames=20, fps=10)
    assert unsilent("generate", "a.mp4")[0] == 0
    return tmp_path / "a.sound.mp4"


def test_retakes_are_written_beside_the_result(unsilent, made, tmp_path):
    code, out, err = unsilent("retake", "a.sound.mp4", "--from", "0.5", "--to", "1.5", "--takes", "2", "--json", "--model", "tiny")
    assert (code, err) == (0, [])
    records = [json.loads(line) for line in out.splitlines()]
    assert [record["out"] for record in records] == [f"a.sound.retake1.take{take}.mp4" for take in (1, 2)]
    assert records[0]["score"] >= records[1]["score"]
    code, out, _ = unsilent("retake", "a.sound.retake1.take1.mp4", "--keep", "0.5", "--wav", "--model", "tiny")
    assert code == 0
    assert "a.sound.retake2.mp4" in out
    names = {path.name for path in tmp_path.iterdir()}
    assert {f"a.sound.retake2{end}" for end in (".mp4", ".wav", ".mp4.unsilent.json", ".mp4.unsilent.wav")} < names
    one, two = (soundfile.read(tmp_path / f"a.sound.retake1.take{take}.mp4.unsilent.wav", dtype="float32")[0] for take in (1, 2))
    assert np.array_equal(one[:11025], two[:11025])
    assert not np.array_equal(one, two)


def test_tables_tell_takes_of_one_file_apart(unsilent, made):
    out = unsilent("generate", "a.mp4", "--takes", "2", "--tracks", "--model", "tiny", "--seed", "3")[1]
    assert ["track 1" in line for line in out.splitlines()[1:]] == [True, False]
    assert "a.sound.seed3.mp4, track 2" in out
    assert "candidate" in unsilent("retake", "a.sound.mp4", "--from", "0.5", "--model", "tiny")[1].splitlines()[0]


def test_generate_leaves_retakes_of_a_folder_out(unsilent, made):
    assert unsilent("retake", "a.sound.mp4", "--from", "0.5", "--to", "1.5", "--model", "tiny")[0] == 0
    _, out, err = unsilent("generate", ".", "--json")
    assert [json.loads(line)["video"] for line in out.splitlines()] == ["a.mp4"]
    assert err == []


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a.sound.mp4"], "no stretch was given"),
        (["none.mp4", "--from", "1"], "none.mp4 does not exist"),
        (["a.sound.mp4", "--from", "0.5", "--to", "1", "-o", "x.txt"], r"cannot write x\.txt"),
        (["a.sound.mp4", "--from", "0.5", "--to", "1", "-o", "a.sound.mp4"], "is the result itself"),
        (["a.sound.mp4", "--from", "0.5", "--to", "1", "-o", "foreign.mp4"], "was not made by unsilent"),
        (["a.sound.mp4", "--from", "9", "--to", "10"], "has 0 to 2.00 s"),
        (["a.sound.mp4", "--from", "nan"], "start is nan, but must be at most 12 hours from the beginning"),
        (["a.sound.mp4", "--to", "1e308"], r"stop is 1e\+308, but must be at most 12 hours"),
        (["a.sound.mp4", "--from", "0.5", "--to", "1", "--video", "foreign.mp4"], "it is another"),
    ],
    ids=str,
)
def test_wrong_requests_are_refused(unsilent, refused, made, make_clip, arguments, sentence):
    make_clip("foreign.mp4", n_frames=3)
    refused(unsilent("retake", *arguments, "--model", "tiny"), sentence)
